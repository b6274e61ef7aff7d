"""Makes a layer of the files that a sandbox wrote. A second sandbox, the copier, copies the upper directory of its disk (I2).

Runs in: supervisor, in a thread. The host names two directories and walks neither. The copier has the disk read-only at ``/.cloister/from``
and the new layer at ``/.cloister/to``. Both are id-mapped to it, so that files have the same owners in the layer as in the sandbox. It has
limits and no internet, and runs one program of ours (``agent/build/upper.py``) on the agent's interpreter.

The copier leaves out paths where a host layer has a file, so that no file of the host stays in a template. No sandbox would see them
anyway, because each has a host layer on top.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloister.disks.space import DiskSpace
from cloister.errors import CloisterError, NoCapacityError, RuntimeFailedError
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.runtime.base import Runtime, RuntimeSandbox
from cloister.runtime.spec import AGENT_PROGRAMS, AGENT_PYTHON, AgentTree, Mount, StepSpec
from cloister.template.hostlayer import overlaid_files
from cloister.template.layers import Layer, LayerStore, Workspace

__all__ = ["BuildResources", "Copier", "NewLayer"]

_PROGRAM = f"{AGENT_PROGRAMS}/build/upper.py"
_FROM, _TO = "/.cloister/from", "/.cloister/to"
_LIMITS = Limits(cpu_count=2.0, mem_mib=1024, pids=8)
_TIMEOUT_S = 3600.0
_MAX_REPORT_BYTES = 65536
_READY = b"R\n"
_MIB = 1 << 20
_RESERVED_FILES = 20
"""The reserve is one in so many of the files that the store's disk can have. Some file systems report no limit."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """Key and name of a new layer. ``parent`` is the layer below it."""

    key: str
    name: str
    parent: str | None


@dataclass(frozen=True, kw_only=True)
class BuildResources:
    """The parts of the node with which builds make sandboxes and layers."""

    runtime: Runtime
    space: DiskSpace
    store: LayerStore
    agent_tree: Callable[[], AgentTree]
    disk_reserve_mib: int
    """Disk space that layers must leave free in the store."""


class Copier:
    """Copies disks into the store. Thread-safe."""

    def __init__(self, resources: BuildResources) -> None:
        self._resources = resources
        self._store = resources.store

    def publish(
        self,
        sandbox: RuntimeSandbox,
        new: NewLayer,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_copied: Callable[[], None] = lambda: None,
    ) -> Layer | None:
        """The layer of the files that ``sandbox`` wrote. None: it wrote no file. An existing layer of that key wins.

        The sandbox is dead, or the caller freezes it in ``on_ready`` and thaws it in ``on_copied``. ``on_ready`` is called when the copier
        waits to begin, ``on_copied`` before the layer is on disk and published, but not after an error.

        Raises: NoCapacityError (the store has no room; nothing is left there), IsolationError, RuntimeFailedError, StoreError, OSError.
        """
        began = time.monotonic()
        used = sandbox.usage()
        self._check_room(used.disk_used_bytes, max(0, sandbox.limits.inodes - used.inodes_free))
        space = self._resources.space.claim(self._store.root, used.disk_used_bytes)
        with space, self._store.workspace(new.key) as workspace:
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
        if free_mib - wanted_mib < self._resources.disk_reserve_mib:
            raise NoCapacityError(
                f"there is no room for a layer of up to {wanted_mib} MiB: {self._store.root} has {free_mib} MiB left, "
                f"of which {self._resources.disk_reserve_mib} are a reserve",
                hint="cloister template gc",
            )

    def _copy(self, sandbox: RuntimeSandbox, workspace: Workspace, on_ready: Callable[[], None]) -> dict[str, Any]:
        output = bytearray()

        def hear(data: bytes) -> None:
            was_ready = output.startswith(_READY)
            output.extend(data)
            if not was_ready and output.startswith(_READY):
                on_ready()
                os.write(go, b"g")

        waiting, go = os.pipe()
        step = StepSpec(
            name="copy",
            layers=(workspace.empty,),
            upper=None,  # the files that it writes are thrown away
            work=workspace.work,
            agent=self._resources.agent_tree(),
            argv=(*AGENT_PYTHON, _PROGRAM, f"{_FROM}/u", _TO, "\n".join(self._of_the_host(sandbox))),
            envs={"LANG": "C.UTF-8"},
            egress=NO_EGRESS,
            limits=_LIMITS,
            timeout_s=_TIMEOUT_S,
            mounts=(Mount(source=sandbox, target=_FROM), Mount(source=workspace.upper, target=_TO, is_writable=True)),
            descriptor=waiting,
        )
        try:
            self._resources.runtime.run_step(step, hear)
        finally:
            os.close(waiting)
            os.close(go)
        return _report(bytes(output[-_MAX_REPORT_BYTES:]))

    def _of_the_host(self, sandbox: RuntimeSandbox) -> list[str]:
        """Paths of files in the sandbox's host layer. A layer of the store is no host layer, whatever it contains."""
        return [name for tree in sandbox.trees if self._store.key_of(tree) is None for name in overlaid_files(tree)]

    def _failure(self, report: dict[str, Any]) -> CloisterError:
        if report.get("errno") in _NO_ROOM:
            return NoCapacityError(f"the disk of {self._store.root} is full: the layer was not made", hint="cloister template gc")
        return RuntimeFailedError(f"the files of the sandbox could not be copied: {report['error']}")


def _report(output: bytes) -> dict[str, Any]:
    """The program's report, on the last line of the output. Without a report, the output tells why."""
    line = output.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict) and ("error" in found or {"entries", "bytes"} <= found.keys()):
        return found
    return {"error": f"the copier ended early: {line[:500] or 'there was no output'}"}
