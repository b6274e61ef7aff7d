"""Sandboxes that run the steps of builds, and the layers made of their disks.

Runs in: supervisor, in the threads of builds. A build sandbox is a normal sandbox of the runtime with a bounded disk. Only this module
knows the access token of its agent. It has no entry in the journal: after the death of the supervisor the next start ends it and removes
its directory. All build sandboxes share one zone, in which no client's code runs outside of sandboxes.
Invariants: I1, I2, I6, I8.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cloister.agentclient.programs import AgentCalls, Ended, Program, RefusedError
from cloister.errors import AgentUnreachableError, BuildError, RuntimeFailedError
from cloister.ids import new_access_token, new_sandbox_id
from cloister.linux.process import wait_pidfd
from cloister.protocol.init_document import AgentLimits, InitDocument
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.spec import AGENT_PROGRAMS, AGENT_PYTHON, BUILD_SHARING, CONTEXT_PATH, MAX_LAYERS, Mount, SandboxSpec
from cloister.template.building.copier import BuildResources, Copier, NewLayer
from cloister.template.hostlayer import HostLayer
from cloister.template.interfaces import BuildSandbox, BuildSandboxes, BuildSandboxSpec, Cancellation, ShellCommand
from cloister.template.layers import Layer

__all__ = ["NodeBuildSandbox", "NodeBuildSandboxes"]

_OPERATIONS = f"{AGENT_PROGRAMS}/build/main.py"
_AGENT_LOG = "/.cloister/agent.log"
"""In a directory that no layer contains."""
_DEFAULT_USER = "cloister"
"""The default user of a build's agent. No process runs as it, so a process without a directory starts in the home of its own user."""
_MAX_RESULT_BYTES = 16 << 20
_FULL_BYTES = 1 << 20
_DYING_S = 0.5
"""How long a sandbox may take to end after the connection to its agent broke."""


class NodeBuildSandboxes(BuildSandboxes):
    """See :class:`BuildSandboxes`."""

    def __init__(self, resources: BuildResources, host_layer: HostLayer, directory: Path, check_capacity: Callable[[], None]) -> None:
        """``directory`` is for the disks; files of an earlier supervisor in it are removed. ``check_capacity`` raises NoCapacityError."""
        self._runtime = resources.runtime
        self._store = resources.store
        self._agent_tree = resources.agent_tree
        self._host_layer = host_layer
        self.directory = directory
        self._check_capacity = check_capacity
        self._copier = Copier(resources)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        self._empty = directory / "empty"
        self._empty.mkdir(mode=0o755)

    @contextlib.contextmanager
    def open(self, layers: tuple[str, ...], spec: BuildSandboxSpec, cancellation: Cancellation) -> Iterator[NodeBuildSandbox]:
        """See :class:`BuildSandboxes`."""
        if len(layers) > MAX_LAYERS:
            raise BuildError(f"a template has at most {MAX_LAYERS} layers, this one {len(layers)}")
        self._check_runtime(spec)
        cancellation.check()
        self._check_capacity()
        sandbox_id = new_sandbox_id()
        directory = self.directory / sandbox_id
        token = new_access_token()
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._store.hold(layers))
            directory.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            made = self._sandbox_spec(sandbox_id, directory, layers, spec, token)
            self._runtime.prepare(made)
            cancellation.check()  # the preparation may have taken a while
            sandbox = self._runtime.create(made, lambda _state: None)
            undo.callback(sandbox.release)
            undo.callback(sandbox.kill)
            if spec.host_endpoint is not None:
                undo.enter_context(sandbox.host_port(spec.host_endpoint.host, spec.host_endpoint.port))
            build_sandbox = NodeBuildSandbox(sandbox, self._copier, layers, spec, token)
            with cancellation.calling(build_sandbox.kill):
                yield build_sandbox

    def _check_runtime(self, spec: BuildSandboxSpec) -> None:
        """Raises: InvalidRequestError, when the runtime cannot do what a build sandbox of this spec needs."""
        needed = ("open_disk", "run_steps") if spec.host_endpoint is None else ("open_disk", "run_steps", "host_ports")
        self._runtime.capabilities.require(self._runtime.name, *needed)

    def _sandbox_spec(self, sandbox_id: str, directory: Path, layers: tuple[str, ...], spec: BuildSandboxSpec, token: str) -> SandboxSpec:
        tree = self._agent_tree()
        paths = tuple(self._store.rootfs(key) for key in layers) or (self._empty,)
        host_envs = self._host_layer.envs if spec.host_layer else {}
        limits = AgentLimits(cpu_count=spec.limits.cpu_count, mem_mib=spec.limits.mem_mib, output_mib=spec.limits.output_mib)
        document = InitDocument(
            sandbox_id=sandbox_id,
            envs={**host_envs, **spec.envs},
            access_token=token,
            user=_DEFAULT_USER,
            workdir=f"/home/{_DEFAULT_USER}",
            limits=limits,
        )
        return SandboxSpec(
            sandbox_id=sandbox_id,
            sharing=BUILD_SHARING,
            directory=directory,
            layers=(*paths, self._host_layer.over(self._store.lowest(layers))) if spec.host_layer else paths,
            agent=tree,
            limits=spec.limits,
            egress=spec.egress,
            init_document=document.to_json(),
            mounts=() if spec.context is None else (Mount(source=spec.context, target=CONTEXT_PATH),),
            agent_log=_AGENT_LOG,
        )


class NodeBuildSandbox(BuildSandbox):
    """See :class:`BuildSandbox`."""

    def __init__(self, sandbox: RuntimeSandbox, copier: Copier, layers: tuple[str, ...], spec: BuildSandboxSpec, token: str) -> None:
        self.sandbox = sandbox
        self._copier = copier
        self._layers = layers
        self._spec = spec
        self._agent = AgentCalls(sandbox.dial, token)
        self._was_killed = False

    def run(self, command: ShellCommand, on_output: Callable[[str, bytes], None]) -> int:
        """See :class:`BuildSandbox`."""
        program = Program(
            argv=("/bin/bash", "-l", "-c", command.text),
            user=command.user,
            cwd=command.cwd,
            envs=command.envs,
            timeout_s=command.timeout_s,
        )
        failed = f"failed to run command '{command.text}': command failed"
        ended = self._run(program, on_output, failed)
        if ended.code and (cause := self._cause(ended)):
            raise BuildError(f"{failed}: exit status {ended.code}: {cause}")
        return ended.code

    def operate(self, operation: str, params: dict[str, Any], on_output: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        """See :class:`BuildSandbox`."""
        said = bytearray()

        def take(kind: str, data: bytes) -> None:
            if kind == "stdout":
                said.extend(data[: max(0, _MAX_RESULT_BYTES - len(said))])
            elif on_output is not None:
                on_output(kind, data)

        argv = (*AGENT_PYTHON, _OPERATIONS, operation)
        program = Program(argv=argv, user="root", cwd="/", input=json.dumps(params).encode())
        ended = self._run(program, take, f"{operation} failed")
        answer = _last_object(bytes(said))
        if answer is not None and "error" in answer:
            raise BuildError(str(answer["error"]))
        if answer is None or ended.code or not isinstance(answer.get("result"), dict):
            raise BuildError(f"{operation} failed: {self._cause(ended) or ended.status}")
        return dict(answer["result"])

    def publish(self, key: str, name: str) -> Layer | None:
        """See :class:`BuildSandbox`."""
        if len(self._layers) >= MAX_LAYERS:
            raise BuildError(f"a template has at most {MAX_LAYERS} layers: put several commands into one step")
        self._check_life("the step failed", 0.0)
        self.sandbox.kill()
        return self._copier.publish(self.sandbox, NewLayer(key=key, name=name, parent=self._layers[-1] if self._layers else None))

    def kill(self) -> None:
        """See :class:`BuildSandbox`."""
        self._was_killed = True
        self.sandbox.kill()

    def _run(self, program: Program, on_output: Callable[[str, bytes], None], failed: str) -> Ended:
        try:
            return self._agent.run(program, on_output)
        except RefusedError as error:
            if error.status == "deadline_exceeded":
                raise BuildError(f"{failed}: it took longer than {program.timeout_s:g} s") from error
            raise BuildError(f"{failed}: {error.status}: {error.message}") from error
        except AgentUnreachableError as error:
            self._check_life(failed, _DYING_S)
            raise BuildError(f"{failed}: {error.message}{self._memory_note()}") from error

    def _check_life(self, failed: str, wait_s: float) -> None:
        """Raises: BuildError with the cause, if the sandbox has ended or ends within ``wait_s``."""
        if self._was_killed:
            raise BuildError(f"{failed}: its sandbox was ended")
        if wait_pidfd(self.sandbox.pidfd, wait_s):
            raise BuildError(f"{failed}: its sandbox ended{self.sandbox.why_ended or self._memory_note()}")

    def _cause(self, ended: Ended) -> str:
        """The limit that a failed program has met. Empty: none is known."""
        if "out of memory" in ended.status:
            return f"out of memory: the build has {self._spec.limits.mem_mib} MiB"
        with contextlib.suppress(RuntimeFailedError, OSError):  # the sandbox has just ended, so this is not the cause
            free_bytes, free_files = self.sandbox.disk_room()
            if free_bytes < _FULL_BYTES:
                return f"the disk is full: the build has {self._spec.limits.disk_mib} MiB"
            if not free_files:
                return f"the disk is full: the build may have {self._spec.limits.inodes} files"
        return ""

    def _memory_note(self) -> str:
        with contextlib.suppress(OSError):
            if self.sandbox.usage().oom_kills:
                return f" (out of memory: the build has {self._spec.limits.mem_mib} MiB)"
        return ""


def _last_object(said: bytes) -> dict[str, Any] | None:
    """The JSON object on the last line, if there is one."""
    try:
        found = json.loads(said.strip().rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
