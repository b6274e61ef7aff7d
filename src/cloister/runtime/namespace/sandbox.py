"""A live sandbox in the hands of the namespace runtime: what can be asked of it and done to it, to its end.

Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I2, I8.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.disks import images, kept
from cloister.errors import ConflictError, RuntimeFailedError
from cloister.linux.files import copy_sparse
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.model.network import EgressPolicy
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.volume import VolumeMount
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.runtime import start
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.namespace.checkpoint.checkpoints import Checkpoints
from cloister.runtime.namespace.slots import StartedSlot, state_of
from cloister.runtime.namespace.volume_mounts import mount_late
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec
from cloister.runtime.stillness import Stillness

__all__ = ["CAPABILITIES", "DISK", "DISK_TIMEOUT_S", "NamespaceSandbox"]

CAPABILITIES = RuntimeCapabilities(
    hand_over=True, freeze=True, keep_disk=True, open_disk=True, run_steps=True, host_ports=True, volumes=True, late_volumes=True
)
"""What this runtime can do."""
DISK = "disk.img"
"""The name of a sandbox's disk in its directory."""
DISK_TIMEOUT_S = 60.0
"""How long the kernel may take to write a disk out and to unmount it."""
_KILL_TIMEOUT_S = 30.0
_PAGE_OUT_TIMEOUT_S = 30.0


class NamespaceSandbox:
    """A live sandbox of this runtime (see :class:`cloister.runtime.base.RuntimeSandbox`)."""

    def __init__(
        self,
        spec: SandboxSpec,
        started: StartedSlot,
        resources: NodeResources,
        groups: RuntimeGroups,
        *,
        init_fd: int | None,
        disk_fd: int | None,
        cold: tuple[str, ...] = (),
        starting: int | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """``disk_fd`` is the disk as a mount that is nowhere attached, None if it is only to be ended. :meth:`release` closes both."""
        self.cold = cold
        self.starting = starting
        self._spec = spec
        self._init_fd = init_fd
        self._disk_fd = disk_fd
        self._started = started
        self._checkpoints = checkpoints
        self._resources = resources
        self._groups = groups
        self._released = False
        self._has_rate = True
        self._keeps_disk = False
        self._stillness = Stillness(groups.tree, spec.sandbox_id)
        self._signalling = threading.Lock()
        """Keeps :meth:`release` from closing the descriptor by which another thread sends a signal."""
        self.why_ended = ""
        """See :class:`RuntimeSandbox`."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """See :class:`RuntimeSandbox`."""
        return replace(CAPABILITIES, checkpoint=self._checkpoints is not None and self._checkpoints.works)

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
        if self._keeps_disk:
            return {"trees": [str(tree) for tree in self._started.trees]}
        loop = {} if self._disk_fd is None else {"loop": os.minor(os.fstat(self._disk_fd).st_dev)}
        return {**state_of(self._started), **loop}

    def dial(self) -> Dialled:
        """See :class:`RuntimeSandbox`."""
        return on_loopback(self._resources.network.dial_socket(self._started.netns_fd))

    @contextmanager
    def host_port(self, host: str, port: int) -> Iterator[None]:
        """See :class:`RuntimeSandbox`."""
        forward = self._resources.network.forward_port(self._started.netns_fd, host, port)
        try:
            yield
        finally:
            forward.close()

    def rewrite_init(self, document: bytes) -> None:
        """See :class:`RuntimeSandbox`. Raises: OSError."""
        if self._init_fd is None:
            raise RuntimeFailedError("the init document of an adopted sandbox is out of reach")
        os.ftruncate(self._init_fd, 0)
        os.pwrite(self._init_fd, document, 0)

    def set_egress(self, policy: EgressPolicy) -> None:
        """See :class:`RuntimeSandbox`."""
        self._resources.network.set_egress(self._started.slot.index, policy, sandbox_id=self._spec.sandbox_id)

    def join_team(self, team_id: str) -> None:
        """See :class:`RuntimeSandbox`."""
        self._resources.network.join_team(self._started.slot.index, team_id)

    def mount_volumes(self, volumes: tuple[VolumeMount, ...], *, has_run: bool) -> bool:
        """See :class:`RuntimeSandbox`."""
        is_done = mount_late(self._resources.volumes, self._spec.sandbox_id, self._started, volumes, has_run=has_run)
        self._spec = replace(self._spec, volumes=volumes)
        for number in self._resources.volumes.devices(self._spec.sandbox_id):
            self._resources.rates.bound(self._spec.sandbox_id, number, self.kill)
        return is_done

    def take_start(self) -> None:
        """See :class:`RuntimeSandbox`."""
        ready, self.starting = self.starting, None
        if ready is not None:
            try:
                start.take_outcome(ready)
            finally:
                os.close(ready)

    def usage(self) -> SandboxUsage:
        """See :class:`RuntimeSandbox`."""
        used = self._groups.tree.usage(self._spec.sandbox_id)
        if self._disk_fd is None:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} was not created whole")
        disk = os.fstatvfs(self._disk_fd)
        return SandboxUsage(
            **vars(used),
            disk_used_bytes=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total_bytes=disk.f_blocks * disk.f_frsize,
            inodes_free=disk.f_ffree,
        )

    def disk_room(self) -> tuple[int, int]:
        """See :class:`RuntimeSandbox`."""
        if self._disk_fd is None:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} was not created whole")
        disk = os.fstatvfs(self._disk_fd)
        return disk.f_bavail * disk.f_frsize, disk.f_ffree

    def cpu_used_s(self) -> float:
        """See :class:`RuntimeSandbox`."""
        return self._groups.tree.cpu_used_s(self._spec.sandbox_id)

    def kill(self) -> None:
        """See :class:`RuntimeSandbox`. Raises: RuntimeFailedError when the kernel does not end it in time."""
        with self._signalling:
            if self._released:
                return
            kill_pidfd(self.pidfd)
            self._free_rate()
        if not self._stillness.end(lambda wait_s: wait_pidfd(self.pidfd, wait_s), _KILL_TIMEOUT_S):
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} did not end after SIGKILL")
        self._resources.volumes.let_go(self._spec.sandbox_id)

    def bound_rates(self) -> None:
        """Bound the data rate of its disk and of its volumes."""
        for number in self._devices(shared=True):
            self._resources.rates.bound(self._spec.sandbox_id, number, self.kill)

    def _devices(self, *, shared: bool) -> list[int]:
        """The loop devices of its disk and its volumes, or only of those that no other sandbox has."""
        disk = [] if self._disk_fd is None else [os.minor(os.fstat(self._disk_fd).st_dev)]
        return [*disk, *self._resources.volumes.devices(self._spec.sandbox_id, shared=shared)]

    def _free_rate(self) -> None:
        """Once, while the disk is open."""
        if self._disk_fd is not None and self._has_rate:
            self._has_rate = False
            for number in self._devices(shared=self._groups.tree.version == 2):  # v1 has one bound for all users of a device
                self._resources.rates.free(self._spec.sandbox_id, number)

    def end_for_space(self) -> None:
        """End it because the server's disk is full; :attr:`why_ended` says so. Raises: RuntimeFailedError."""
        self.why_ended = " (the server ran out of disk space, and this was growing fastest)"
        self.kill()

    def has_ended(self) -> bool:
        """See :class:`RuntimeSandbox`."""
        return self._released or wait_pidfd(self.pidfd, 0)

    @property
    def trees(self) -> tuple[Path, ...]:
        """See :class:`RuntimeSandbox`."""
        return self._started.trees

    @property
    def limits(self) -> Limits:
        """See :class:`RuntimeSandbox`."""
        return self._spec.limits

    def freeze(self) -> None:
        """See :class:`RuntimeSandbox`."""
        self._stillness.keep()

    def frozen(self) -> AbstractContextManager[None]:
        """See :class:`RuntimeSandbox`."""
        return self._stillness.hold()

    def thaw(self) -> None:
        """See :class:`RuntimeSandbox`."""
        self._stillness.leave()

    def page_out(self) -> int:
        """See :class:`RuntimeSandbox`."""
        tree, name = self._groups.tree, self._spec.sandbox_id
        if not self._stillness.is_kept:
            raise RuntimeFailedError(f"sandbox {name} is not frozen: its memory stays where it is")
        before = tree.usage(name).mem_used_bytes
        tree.allow_swap(name, allowed=True)
        try:
            tree.page_out(name, lambda: self._stillness.is_kept, _PAGE_OUT_TIMEOUT_S)
        finally:
            tree.allow_swap(name, allowed=False)
        return max(0, before - tree.usage(name).mem_used_bytes)

    def swapped_bytes(self) -> int:
        """See :class:`RuntimeSandbox`."""
        return self._groups.tree.swapped_bytes(self._spec.sandbox_id)

    def keep_disk(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if not self.has_ended():
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} lives: its disk cannot be closed")
        self._keeps_disk = True  # from here on, whatever happens, the image stays
        if self._disk_fd is not None:
            kept.store_disk(self._disk_fd, DISK_TIMEOUT_S)
            self._resources.space.forget(self._spec.sandbox_id)  # it grows no more, and the host's free space tells of what it stores
            os.close(self._disk_fd)
            self._disk_fd = None
        kept.close_disk(self._spec.directory / DISK, DISK_TIMEOUT_S)

    def checkpoint(self, directory: Path, *, is_durable: bool = True) -> int:
        """See :class:`RuntimeSandbox`."""
        if self._checkpoints is None:
            raise RuntimeFailedError("this sandbox has no checkpoints")
        if self.starting is not None:
            raise ConflictError("the template's start command has not finished yet")
        if self._spec.volumes:
            raise ConflictError(
                "the sandbox has volumes, which may change while its memory is on disk", hint="keep its files: memory=false"
            )
        return self._checkpoints.dump(self._spec, self._started, self.usage().mem_used_bytes, directory, is_durable=is_durable).size_bytes

    def write_disk(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if self._disk_fd is None or self._released:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} has no disk")
        kept.store_disk(self._disk_fd, DISK_TIMEOUT_S)

    def copy_disk(self, directory: Path) -> None:
        """See :class:`RuntimeSandbox`."""
        self.write_disk()
        copy_sparse(self._spec.directory / DISK, directory / DISK)

    def open_disk(self, userns_fd: int) -> int:
        """See :class:`RuntimeSandbox`."""
        if self._disk_fd is None or self._released:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} has no disk")
        return images.show_disk(self._spec.directory / DISK, os.minor(os.fstat(self._disk_fd).st_dev), userns_fd)

    def release(self) -> None:
        """See :class:`RuntimeSandbox`."""
        with self._signalling:
            if self._released:
                return
            self._released = True
            self._free_rate()
        self._resources.space.forget(self._spec.sandbox_id)
        self._resources.volumes.let_go(self._spec.sandbox_id)
        for fd in (self._disk_fd, self.starting):
            if fd is not None:
                os.close(fd)
        self.starting = None
        zone, slot = self._started.zone, self._started.slot
        self._resources.network.release_later(slot.index, self._started.netns_fd, on_gone=lambda: zone.free(slot))
        self._resources.tree_locks.unlock(self._started.trees)
        if not self._keeps_disk:
            (self._spec.directory / DISK).unlink(missing_ok=True)
        os.close(self._started.pidfd)
        if self._init_fd is not None:
            os.close(self._init_fd)
        self._groups.remove(self._spec.sandbox_id)  # the only step that a template's code can make fail
