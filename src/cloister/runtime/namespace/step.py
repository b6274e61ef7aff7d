"""Runs one step of a template build in a sandbox (I1): isolated like any other, with a plain directory as its upper.

Runs in: a build process or the supervisor, as host root. The upper directory becomes a layer as it is: nothing is copied or walked (I2).
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cloister.errors import DeadlineError, RuntimeFailedError
from cloister.ids import new_sandbox_id
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.model.resources import Limits
from cloister.runtime.namespace.plan import Payload
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.spec import SandboxSpec

__all__ = ["StepRunner", "StepSpec", "run_payload"]

_USERS = {"root": 0, "user": 1000}


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One step. ``upper`` and ``work`` are on one file system; ids inside them are the sandbox's, 0..65535."""

    layers: tuple[Path, ...]
    """Root directories of the layers below, lowest first, without the host layer."""
    host_layer: Path | None
    upper: Path
    work: Path
    argv: tuple[str, ...]
    envs: dict[str, str]
    cwd: str = "/"
    user: str = "root"
    allow_internet: bool = True
    limits: Limits
    timeout_s: float


class StepRunner:
    """Runs steps by way of the namespace runtime."""

    def __init__(self, runtime: NamespaceRuntime) -> None:
        self._runtime = runtime

    def run_step(self, spec: StepSpec, log: Callable[[bytes], None]) -> int:
        """The step's exit status; ``log`` gets its output, stdout and stderr mixed, as it comes.

        Raises: IsolationError, NoCapacityError, DeadlineError when it takes longer than ``timeout_s`` (it is killed then).
        """
        layers = spec.layers if spec.host_layer is None else (*spec.layers, spec.host_layer)
        sandbox = SandboxSpec(
            sandbox_id="step-" + new_sandbox_id(),
            template_key="build",
            directory=spec.work,
            layers=layers,
            agent=None,
            limits=spec.limits,
            allow_internet=spec.allow_internet,
        )
        uid = _USERS.get(spec.user)
        if uid is None:
            raise RuntimeFailedError(f"a build step cannot run as {spec.user!r}", hint=f"known: {', '.join(_USERS)}")
        payload = Payload(argv=spec.argv, envs=spec.envs, cwd=spec.cwd, uid=uid, gid=uid)
        with _UpperPair(spec.upper, spec.work) as pair:
            return run_payload(self._runtime, sandbox, payload, pair.mounts, log, spec.timeout_s)


class _UpperPair:
    """A directory with ``u`` and ``w``, as a slot expects it, made of the step's upper and work directories by renaming.

    overlayfs wants both on one mount, so their parent is what the sandbox gets. They are renamed back when the sandbox has ended.
    """

    def __init__(self, upper: Path, work: Path) -> None:
        self._parts = {"u": upper, "w": work}
        self._parent = upper.parent / f".{upper.name}.pair"

    def __enter__(self) -> Self:
        self._parent.mkdir(mode=0o755)
        for name, path in self._parts.items():
            path.rename(self._parent / name)
        return self

    def mounts(self, userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
        """The pair as a detached, id-mapped mount, which ``stack`` closes."""
        return [("upper", close_with(stack, clone_tree(self._parent, MountFlag.NO_DEV, userns_fd=userns_fd)))]

    def __exit__(self, *_exc: object) -> None:
        for name, path in self._parts.items():
            (self._parent / name).rename(path)
        self._parent.rmdir()


def run_payload(
    runtime: NamespaceRuntime,
    sandbox: SandboxSpec,
    payload: Payload,
    mounts_of: Callable[[int, ExitStack], list[tuple[str, int]]],
    log: Callable[[bytes], None],
    timeout_s: float,
) -> int:
    """Run one program in a sandbox of its own, without an agent; gives its exit status. ``mounts_of`` is as for ``start_slot``.

    Raises: IsolationError, NoCapacityError, DeadlineError when it takes longer than ``timeout_s`` (it is killed then), RuntimeFailedError.
    """
    with ExitStack() as undo:
        output, output_writer = os.pipe()
        undo.callback(os.close, output)
        status, status_writer = os.pipe()
        undo.callback(os.close, status)
        with ExitStack() as given:
            given.callback(os.close, output_writer)
            given.callback(os.close, status_writer)
            fds = [("log", output_writer), ("status", status_writer)]
            runtime.start_slot(sandbox, payload, fds, mounts_of, undo, lambda _state: None)
        return _follow(output, status, log, timeout_s)


def _follow(output: int, status: int, log: Callable[[bytes], None], timeout_s: float) -> int:
    poller = select.poll()
    poller.register(output, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if not poller.poll(int(left * 1000)):
            continue
        data = os.read(output, 65536)
        if data:
            log(data)
            continue
        found = re.match(rb"(\d+)\n", os.read(status, 64))
        if found is None:
            raise RuntimeFailedError("the build step's sandbox ended without a status")
        return int(found[1])
    raise DeadlineError(f"the step took longer than {timeout_s:.0f} s")
