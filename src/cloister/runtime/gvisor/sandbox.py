"""A live sandbox in the hands of the gVisor runtime: what can be asked of it and done to it, to its end.

It is two processes of the host, its kernel and its gofer, and with one of them gone it is ended (:mod:`.watch`).
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I2, I6, I8.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from cloister.disks import images, kept
from cloister.errors import ConflictError, RuntimeFailedError
from cloister.linux.files import copy_sparse, make_directory
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.linux.syscall import sync_filesystem
from cloister.model.network import EgressPolicy
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.volume import VolumeMount
from cloister.protocol.agent import RELAY_PORT
from cloister.protocol.dialled import Dialled
from cloister.runtime import start
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.gvisor.client import Box, Client
from cloister.runtime.gvisor.halt import Halt
from cloister.runtime.gvisor.manifest import Manifest
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec
from cloister.runtime.stillness import Stillness

__all__ = ["CAPABILITIES", "DISK", "DISK_TIMEOUT_S", "GvisorSandbox", "Started"]

CAPABILITIES = RuntimeCapabilities(hand_over=True, freeze=True, keep_disk=True, open_disk=True, checkpoint=True, volumes=True)
"""What this runtime can do."""
DISK = "disk.img"
"""The name of a sandbox's disk in its directory; the disk itself is as the namespace runtime has it."""
DISK_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 30.0
_PAGE_OUT_TIMEOUT_S = 30.0
_COUNT_EVERY_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """A sandbox whose processes run. The holder closes the descriptors."""

    box: Box
    slot: int
    """Its number in the node."""
    kernel_fd: int
    gofer_fd: int
    netns_fd: int
    trees: tuple[Path, ...]
    free_slot: Callable[[], None]
    guest: Path
    """The directory of its first program."""
    manifest: Manifest
    """What an image of it needs."""
    client: Client

    def kill(self) -> None:
        """Send SIGKILL to both processes."""
        kill_pidfd(self.kernel_fd)
        kill_pidfd(self.gofer_fd)

    def has_ended(self, wait_s: float) -> bool:
        """Whether both processes have ended within that time."""
        return wait_pidfd(self.kernel_fd, wait_s) and wait_pidfd(self.gofer_fd, wait_s)


class GvisorSandbox:
    """A live sandbox of this runtime (see :class:`cloister.runtime.base.RuntimeSandbox`)."""

    capabilities = CAPABILITIES
    cold: tuple[str, ...] = ("agent", "kernel")

    def __init__(
        self,
        spec: SandboxSpec,
        started: Started,
        resources: NodeResources,
        groups: RuntimeGroups,
        *,
        disk_fd: int | None,
        starting: int | None = None,
    ) -> None:
        """``disk_fd`` is the disk as a detached mount, None if it is only to be ended. :meth:`release` closes all descriptors."""
        self.starting = starting
        self._spec = spec
        self._started = started
        self._disk_fd = disk_fd
        self._resources = resources
        self._groups = groups
        self._released = False
        self._has_rate = True
        self._keeps_disk = False
        self._stillness = Stillness(Halt(started.box), spec.sandbox_id)
        self._signalling = threading.Lock()
        self._copying = threading.Lock()
        self._why_ended: str | None = None
        """None until its end has a cause, or has begun."""
        self._oom_kills = (0, 0)
        """Processes of it that the host had ended for memory, at the last two samples. The last may count the end of its kernel already."""
        self._counted_at = time.monotonic()

    @property
    def pidfd(self) -> int:
        """See :class:`RuntimeSandbox`: of its kernel, with which every process inside ends."""
        return self._started.kernel_fd

    @property
    def gofer_pidfd(self) -> int:
        """Of its gofer: without that no program reaches a file."""
        return self._started.gofer_fd

    @property
    def network_slot(self) -> int:
        """See :class:`RuntimeSandbox`."""
        return self._started.slot

    @property
    def trees(self) -> tuple[Path, ...]:
        """See :class:`RuntimeSandbox`."""
        return self._started.trees

    @property
    def limits(self) -> Limits:
        """See :class:`RuntimeSandbox`."""
        return self._spec.limits

    def state(self) -> dict[str, Any]:
        """See :class:`RuntimeSandbox`."""
        trees = [str(tree) for tree in self._started.trees]
        if self._keeps_disk:
            return {"trees": trees}
        loop = {} if self._disk_fd is None else {"loop": os.minor(os.fstat(self._disk_fd).st_dev)}
        return {**state_of(self._started), **loop}

    def dial(self) -> Dialled:
        """See :class:`RuntimeSandbox`."""
        sock, address = self._resources.network.call_socket(self._started.slot)
        return Dialled(sock, (address,), RELAY_PORT)

    def set_egress(self, policy: EgressPolicy) -> None:
        """See :class:`RuntimeSandbox`."""
        self._resources.network.set_egress(self._started.slot, policy, sandbox_id=self._spec.sandbox_id)

    def join_team(self, team_id: str) -> None:
        """See :class:`RuntimeSandbox`."""
        self._resources.network.join_team(self._started.slot, team_id)

    def rewrite_init(self, document: bytes) -> None:
        """See :class:`RuntimeSandbox`. Nothing to do: the document is inside, and the agent writes it when it gets its client's facts."""

    def take_start(self) -> None:
        """See :class:`RuntimeSandbox`."""
        ready, self.starting = self.starting, None
        if ready is not None:
            try:
                start.take_outcome(ready)
            finally:
                os.close(ready)

    def usage(self) -> SandboxUsage:
        """See :class:`RuntimeSandbox`. The memory is that of its kernel and its gofer too."""
        used = self._groups.tree.usage(self._spec.sandbox_id)
        if time.monotonic() - self._counted_at > _COUNT_EVERY_S and not wait_pidfd(self.pidfd, 0):
            self._oom_kills, self._counted_at = (self._oom_kills[1], used.oom_kills), time.monotonic()
        disk = os.fstatvfs(self._disk())
        return SandboxUsage(
            **vars(used),
            disk_used_bytes=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total_bytes=disk.f_blocks * disk.f_frsize,
            inodes_free=disk.f_ffree,
        )

    def cpu_used_s(self) -> float:
        """See :class:`RuntimeSandbox`."""
        return self._groups.tree.cpu_used_s(self._spec.sandbox_id)

    def kill(self) -> None:
        """See :class:`RuntimeSandbox`. Raises: RuntimeFailedError when the kernel does not end it in time."""
        with self._signalling:
            if self._released:
                return
            self._why_ended = self.why_ended
            self._started.kill()
            self._free_rate()
        if not self._stillness.end(self._started.has_ended, _KILL_TIMEOUT_S):
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} did not end after SIGKILL")
        self._resources.volumes.let_go(self._spec.sandbox_id)

    @property
    def why_ended(self) -> str:
        """See :class:`RuntimeSandbox`. When memory runs out, the host may end its kernel, and with that all of it."""
        if self._why_ended is not None or self._released:
            return self._why_ended or ""
        with contextlib.suppress(OSError):  # its group is gone
            if wait_pidfd(self.pidfd, 0) and self._groups.tree.usage(self._spec.sandbox_id).oom_kills > self._oom_kills[0]:
                return " (its memory ran out)"
        return ""

    @why_ended.setter
    def why_ended(self, text: str) -> None:
        self._why_ended = text

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

    def end_half(self) -> None:
        """End it because one of its two processes has ended. Raises: RuntimeFailedError."""
        if not self.why_ended and not wait_pidfd(self.pidfd, 0):
            self.why_ended = " (the process that opens its files has ended)"
        self.kill()

    def has_ended(self) -> bool:
        """See :class:`RuntimeSandbox`."""
        return self._released or self._started.has_ended(0)

    # ---- freeze ----

    def freeze(self) -> None:
        """See :class:`RuntimeSandbox`. Its programs are stopped by its kernel, and then that by the host (:mod:`.halt`)."""
        if not self._stillness.is_kept:
            self._started.client.pause(self._spec.sandbox_id)
        try:
            self._stillness.keep()
        except BaseException:
            self._started.client.resume(self._spec.sandbox_id)
            raise

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """See :class:`RuntimeSandbox`."""
        with self._copying:
            self._started.client.pause(self._spec.sandbox_id)
            try:
                with self._stillness.hold():
                    yield
            finally:
                if not self._stillness.is_kept:
                    self._resume()

    def thaw(self) -> None:
        """See :class:`RuntimeSandbox`."""
        self._stillness.leave()
        if self._stillness.is_copied:  # the block of :meth:`frozen` ends it
            return
        self._resume()

    def _resume(self) -> None:
        """Let its kernel run its programs, if it lives."""
        if not self.has_ended():
            self._started.client.resume(self._spec.sandbox_id)

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

    # ---- disk ----

    def keep_disk(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if not self.has_ended():
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} lives: its disk cannot be closed")
        self._keeps_disk = True  # from here on, whatever happens, the image stays
        if self._disk_fd is not None:
            kept.store_disk(self._disk_fd, DISK_TIMEOUT_S)
            self._resources.space.forget(self._spec.sandbox_id)
            os.close(self._disk_fd)
            self._disk_fd = None
        kept.close_disk(self._spec.directory / DISK, DISK_TIMEOUT_S)

    def write_disk(self) -> None:
        """See :class:`RuntimeSandbox`."""
        kept.store_disk(self._disk(), DISK_TIMEOUT_S)

    def copy_disk(self, directory: Path) -> None:
        """See :class:`RuntimeSandbox`."""
        kept.store_disk(self._disk(), DISK_TIMEOUT_S)
        copy_sparse(self._spec.directory / DISK, directory / DISK)

    def checkpoint(self, directory: Path, *, is_durable: bool = True) -> int:
        """See :class:`RuntimeSandbox`. Its kernel writes the image while its programs stand still."""
        if self.starting is not None:
            raise ConflictError("the template's start command has not finished yet")
        if self._spec.volumes:
            raise ConflictError(
                "the sandbox has volumes, which may change while its memory is on disk", hint="keep its files: memory=false"
            )
        partial = directory.with_name(f"{directory.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            make_directory(partial)
            with self._resources.space.claim(partial, self.usage().mem_used_bytes):
                shutil.copytree(self._started.guest, partial / "guest")
                self._started.manifest.write(partial)
                with self._stillness.lift():
                    self._started.client.save(self._spec.sandbox_id, partial / "image")
            if is_durable:
                sync_filesystem(partial)
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))

    def open_disk(self, userns_fd: int) -> int:
        """See :class:`RuntimeSandbox`."""
        return images.show_disk(self._spec.directory / DISK, os.minor(os.fstat(self._disk()).st_dev), userns_fd)

    def disk_room(self) -> tuple[int, int]:
        """See :class:`RuntimeSandbox`."""
        disk = os.fstatvfs(self._disk())
        return disk.f_bavail * disk.f_frsize, disk.f_ffree

    def _disk(self) -> int:
        if self._disk_fd is None or self._released:
            raise RuntimeFailedError(f"sandbox {self._spec.sandbox_id} has no disk")
        return self._disk_fd

    def release(self) -> None:
        """See :class:`RuntimeSandbox`."""
        with self._signalling:
            if self._released:
                return
            self._free_rate()
            self._released = True
        self._resources.space.forget(self._spec.sandbox_id)
        self._resources.volumes.let_go(self._spec.sandbox_id)
        for fd in (self._disk_fd, self.starting):
            if fd is not None:
                os.close(fd)
        self.starting = None
        self._resources.network.release_later(self._started.slot, self._started.netns_fd, on_gone=self._started.free_slot)
        self._resources.tree_locks.unlock(self._started.trees)
        self._started.client.forget(self._spec.sandbox_id)
        if not self._keeps_disk:
            (self._spec.directory / DISK).unlink(missing_ok=True)
        os.close(self._started.kernel_fd)
        os.close(self._started.gofer_fd)
        self._groups.remove(self._spec.sandbox_id)

    # ---- what needs a capability that it does not declare ----

    def mount_volumes(self, volumes: tuple[VolumeMount, ...], *, has_run: bool) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def host_port(self, host: str, port: int) -> AbstractContextManager[None]:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError


def state_of(started: Started) -> dict[str, Any]:
    """What :meth:`Runtime.adopt` needs, JSON-ready."""
    box = started.box
    return {
        "pid": box.kernel.pid,
        "start_ticks": box.kernel.start_ticks,
        "gofer": [box.gofer.pid, box.gofer.start_ticks],
        "slot": started.slot,
        "trees": [str(tree) for tree in started.trees],
        "manifest": asdict(started.manifest),
    }
