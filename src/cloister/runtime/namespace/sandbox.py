"""A live sandbox in the hands of the namespace runtime: what can be asked of it and done to it, to its end.

Runs in: supervisor, in worker threads. Invariants: I2, I8.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.errors import RuntimeFailedError
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.model.resources import Limits
from cloister.runtime.base import Usage
from cloister.runtime.namespace import rootfs, start
from cloister.runtime.namespace.zone import Slot, Zone
from cloister.runtime.spec import SandboxSpec

if TYPE_CHECKING:
    from cloister.runtime.namespace.runtime import NamespaceRuntime

__all__ = ["NamespaceSandbox", "StartedSlot", "state_of"]

_KILL_TIMEOUT_S = 30.0
_FREEZE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class StartedSlot:
    """A slot whose pid 1 runs the payload. The holder closes ``pidfd`` and ``netns_fd``."""

    zone: Zone
    slot: Slot
    pid: int
    ticks: int
    pidfd: int
    netns_fd: int
    namespaces: tuple[int, ...] = ()
    """pid, user, mnt, ipc, uts, cgroup, time, when it may have a zygote's children; the holder closes them."""
    trees: tuple[Path, ...] = ()
    """What it stands on, held from removal."""


class NamespaceSandbox:
    """A live sandbox of this runtime (see :class:`cloister.runtime.base.RuntimeSandbox`)."""

    def __init__(
        self,
        spec: SandboxSpec,
        started: StartedSlot,
        runtime: NamespaceRuntime,
        *,
        init_fd: int | None,
        disk_fd: int | None,
        cold: tuple[str, ...] = (),
        starting: int | None = None,
    ) -> None:
        """``disk_fd`` is the disk as a mount that is nowhere attached, None if it is only to be ended. :meth:`release` closes both."""
        self.cold = cold
        self.starting = starting
        self._spec = spec
        self._init_fd = init_fd
        self._disk_fd = disk_fd
        self._started = started
        self._runtime = runtime
        self._released = False
        self._is_frozen = False
        self._freezing = threading.Lock()

    @property
    def pidfd(self) -> int:
        """Readable when pid 1 and all its processes have ended."""
        return self._started.pidfd

    @property
    def network_slot(self) -> int:
        """See :class:`RuntimeSandbox`."""
        return self._started.slot.index

    def state(self) -> dict[str, Any]:
        """See :class:`RuntimeSandbox`."""
        loop = {} if self._disk_fd is None else {"loop": os.minor(os.fstat(self._disk_fd).st_dev)}
        return {**state_of(self._started), **loop}

    def dial(self) -> socket.socket:
        """See :class:`RuntimeSandbox`."""
        return self._runtime.network.dial_socket(self._started.netns_fd)

    @contextmanager
    def door(self, host: str, port: int) -> Iterator[None]:
        """For the time of the block ``host``, at ``port``, is in this sandbox what it is on the host.

        Raises: UnavailableError, when there is nothing; IsolationError, OSError.
        """
        door = self._runtime.network.open_door(self._started.netns_fd, host, port)
        try:
            yield
        finally:
            door.close()

    def rewrite_init(self, document: bytes) -> None:
        """See :class:`RuntimeSandbox`. Raises: OSError."""
        if self._init_fd is None:
            raise RuntimeFailedError("the init document of an adopted sandbox is out of reach")
        os.ftruncate(self._init_fd, 0)
        os.pwrite(self._init_fd, document, 0)

    def set_internet(self, allowed: bool) -> None:
        """See :class:`RuntimeSandbox`."""
        self._runtime.network.set_internet(self._started.slot.index, allowed)

    def take_start(self) -> None:
        """See :class:`RuntimeSandbox`."""
        ready, self.starting = self.starting, None
        if ready is not None:
            try:
                start.take_outcome(ready)
            finally:
                os.close(ready)

    def usage(self) -> Usage:
        """See :class:`RuntimeSandbox`."""
        used = self._runtime.cgroups.usage(self._spec.sandbox_id)
        if self._disk_fd is None:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} was not created whole")
        disk = os.fstatvfs(self._disk_fd)
        return Usage(
            **vars(used),
            disk_used_bytes=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total_bytes=disk.f_blocks * disk.f_frsize,
            inodes_free=disk.f_ffree,
        )

    def disk_room(self) -> tuple[int, int]:
        """Bytes and files that its programs can still write. Not after :meth:`release`."""
        if self._disk_fd is None:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} was not created whole")
        disk = os.fstatvfs(self._disk_fd)
        return disk.f_bavail * disk.f_frsize, disk.f_ffree

    def cpu_used_s(self) -> float:
        """See :class:`RuntimeSandbox`."""
        return self._runtime.cgroups.cpu_used_s(self._spec.sandbox_id)

    def kill(self) -> None:
        """See :class:`RuntimeSandbox`. Raises: RuntimeFailedError when the kernel does not end it in time."""
        kill_pidfd(self.pidfd)
        self.thaw()  # v1: a frozen process dies when it is thawed
        if not wait_pidfd(self.pidfd, _KILL_TIMEOUT_S):
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} did not end after SIGKILL")

    def has_ended(self) -> bool:
        """Whether all its processes are gone."""
        return self._released or wait_pidfd(self.pidfd, 0)

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of the host that it stands on: its layers, lowest first, then others."""
        return self._started.trees

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return self._spec.limits

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of it for the time of the block, or until :meth:`thaw`; one at a time. Raises: DeadlineError, OSError."""
        with self._freezing:
            self._is_frozen = True
            try:
                self._runtime.cgroups.freeze(self._spec.sandbox_id, _FREEZE_TIMEOUT_S)
                yield
            finally:
                self.thaw()

    def thaw(self) -> None:
        """Let it run on if it is frozen. Raises: OSError."""
        if self._is_frozen:
            self._runtime.cgroups.thaw(self._spec.sandbox_id)
            self._is_frozen = False

    def open_disk(self, userns_fd: int) -> int:
        """Its disk once more, as a detached mount that is read-only and id-mapped to another sandbox; the caller closes it.

        Not after :meth:`release`. Raises: IsolationError.
        """
        if self._disk_fd is None or self._released:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} has no disk")
        return rootfs.show_disk(self._spec.directory / "disk.img", os.minor(os.fstat(self._disk_fd).st_dev), userns_fd)

    def release(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if self._released:
            return
        self._released = True
        for fd in (self._disk_fd, self.starting):
            if fd is not None:
                os.close(fd)
        self.starting = None
        zone, slot = self._started.zone, self._started.slot
        self._runtime.network.release_later(slot.index, self._started.netns_fd, on_gone=lambda: zone.free(slot))
        self._runtime.remove_group(self._spec.sandbox_id)
        self._runtime.holds.give(self._started.trees)
        (self._spec.directory / "disk.img").unlink(missing_ok=True)
        os.close(self._started.pidfd)
        if self._init_fd is not None:
            os.close(self._init_fd)


def state_of(started: StartedSlot) -> dict[str, Any]:
    """What :meth:`Runtime.adopt` needs of a slot, JSON-ready."""
    place = {"pid": started.pid, "start_ticks": started.ticks, "zone": started.slot.zone, "slot": started.slot.number}
    return {**place, "trees": [str(tree) for tree in started.trees]}
