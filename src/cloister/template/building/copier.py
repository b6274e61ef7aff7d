"""Makes a layer of what a sandbox wrote: a second sandbox, the copier, copies the upper directory of its disk into the store (I2).

Runs in: supervisor, in a thread. The host names two directories and walks neither. The copier sees the disk read-only at
``/.cloister/from`` and the layer to be at ``/.cloister/to``, both id-mapped to it, so that ids of files are in the layer what they are in
the sandbox. It has limits, no internet, and runs one program of ours (``agent/build/upper.py``) on the agent's interpreter.

What lies where a host layer has a file is left out: nothing of the host stays in a template, and no sandbox would see it, since each has a
host layer on top.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from cloister.errors import CloisterError, NoCapacityError, RuntimeFailedError
from cloister.ids import new_sandbox_id
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.model.resources import Limits
from cloister.runtime.namespace.plan import AGENT_PYTHON, Payload
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.runtime.namespace.step import run_payload
from cloister.runtime.spec import AgentTree, SandboxSpec
from cloister.template.hostlayer import overlaid_files
from cloister.template.layers import Layer, LayerStore, Workspace

__all__ = ["BUILD_ZONE", "BuildPlace", "Copier", "NewLayer"]

BUILD_ZONE = "build"
"""The ``template_key`` of every sandbox of a build."""
_PROGRAM = "/.cloister/agent/site/cloister/agent/build/upper.py"
_LIMITS = Limits(cpu_count=2.0, mem_mib=1024, pids=8)
_TIMEOUT_S = 3600.0
_MAX_REPORT_BYTES = 65536
_READY = b"R\n"
_MIB = 1 << 20
_RESERVED_FILES = 20
"""One part in so many of the files that the store's disk may have is a reserve. Some file systems have no bound, and tell of none."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """What a layer is to be called; ``parent`` is the layer below it."""

    key: str
    name: str
    parent: str | None


@dataclass(frozen=True, kw_only=True)
class BuildPlace:
    """Where sandboxes of builds are made, and where their layers go."""

    runtime: NamespaceRuntime
    store: LayerStore
    agent_tree: Callable[[], AgentTree]
    disk_reserve_mib: int
    """What must stay free where the store is."""


class Copier:
    """Copies disks into the store. Thread-safe."""

    def __init__(self, place: BuildPlace) -> None:
        self._place = place
        self._store = place.store

    def publish(
        self,
        sandbox: NamespaceSandbox,
        new: NewLayer,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_copied: Callable[[], None] = lambda: None,
    ) -> Layer | None:
        """The layer of what ``sandbox`` wrote; None when it wrote nothing. A layer that is there already wins.

        The sandbox is dead, or stands still from ``on_ready``, which is called when the copier waits to begin, until ``on_copied``, which
        is called before the layer is on disk and published; after an error it is not.

        Raises: NoCapacityError (the store has no room; nothing is left there), IsolationError, RuntimeFailedError, StoreError, OSError.
        """
        began = time.monotonic()
        used = sandbox.usage()
        self._check_room(used.disk_used_bytes, max(0, sandbox.limits.inodes - used.inodes_free))
        with self._store.workspace(new.key) as workspace:
            report = self._copy(sandbox, workspace, on_ready)
            on_copied()
            if "error" in report:
                raise self._failure(report)
            if not report["entries"]:
                return None
            seconds = time.monotonic() - began
            return self._store.publish(workspace, new.key, new.name, new.parent, seconds, size_bytes=report["bytes"])

    def _check_room(self, wanted_bytes: int, wanted_files: int) -> None:
        disk = os.statvfs(self._store.root)
        if disk.f_files and disk.f_favail - wanted_files < int(disk.f_files / _RESERVED_FILES):
            raise NoCapacityError(
                f"there is no room for a layer of up to {wanted_files} files: {self._store.root} may have {disk.f_favail} more, "
                f"of which {int(disk.f_files / _RESERVED_FILES)} are a reserve",
                hint="cloister template gc",
            )
        free_mib, wanted_mib = disk.f_bavail * disk.f_frsize // _MIB, wanted_bytes // _MIB
        if free_mib - wanted_mib < self._place.disk_reserve_mib:
            raise NoCapacityError(
                f"there is no room for a layer of up to {wanted_mib} MiB: {self._store.root} has {free_mib} MiB left, "
                f"of which {self._place.disk_reserve_mib} are a reserve",
                hint="cloister template gc",
            )

    def _copy(self, sandbox: NamespaceSandbox, workspace: Workspace, on_ready: Callable[[], None]) -> dict[str, Any]:
        spec = SandboxSpec(
            sandbox_id="copy-" + new_sandbox_id(),
            template_key=BUILD_ZONE,
            directory=workspace.root,
            layers=(workspace.empty,),
            agent=self._place.agent_tree(),
            limits=_LIMITS,
            allow_internet=False,
        )
        argv = (*AGENT_PYTHON, _PROGRAM, "/.cloister/from/u", "/.cloister/to", "\n".join(self._of_the_host(sandbox)))
        payload = Payload(argv=argv, envs={"LANG": "C.UTF-8"}, keep=("go",))

        def mounts(userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
            sealed = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
            return [
                ("go", waiting),
                ("upper", close_with(stack, clone_tree(workspace.work, MountFlag.NO_DEV, userns_fd=userns_fd))),
                ("mount:/.cloister/from", close_with(stack, sandbox.open_disk(userns_fd))),
                ("mount:/.cloister/to", close_with(stack, clone_tree(workspace.upper, sealed, userns_fd=userns_fd))),
            ]

        said = bytearray()

        def hear(data: bytes) -> None:
            was_ready = said.startswith(_READY)
            said.extend(data)
            if not was_ready and said.startswith(_READY):
                on_ready()
                os.write(go, b"g")

        waiting, go = os.pipe()
        try:
            run_payload(self._place.runtime, spec, payload, mounts, hear, _TIMEOUT_S)
        finally:
            os.close(waiting)
            os.close(go)
        return _report(bytes(said[-_MAX_REPORT_BYTES:]))

    def _of_the_host(self, sandbox: NamespaceSandbox) -> list[str]:
        """Paths of the host's files below the sandbox. A layer of the store is never the host's, whatever it holds."""
        return [name for tree in sandbox.trees if self._store.key_of(tree) is None for name in overlaid_files(tree)]

    def _failure(self, report: dict[str, Any]) -> CloisterError:
        if report.get("errno") in _NO_ROOM:
            return NoCapacityError(f"the disk of {self._store.root} is full: the layer was not made", hint="cloister template gc")
        return RuntimeFailedError(f"what the sandbox wrote could not be copied: {report['error']}")


def _report(said: bytes) -> dict[str, Any]:
    """The last line, which the program wrote; whatever else there is tells why it is not there."""
    line = said.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict) and ("error" in found or {"entries", "bytes"} <= found.keys()):
        return found
    return {"error": f"the copier ended early: {line[:500] or 'it said nothing'}"}
