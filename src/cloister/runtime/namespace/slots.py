"""How a slot becomes a sandbox: control group, namespaces, network address, mounts, set-up. It reads top to bottom.

A started slot is what sandboxes, build steps and copies have in common. Each acquisition registers its undo with the caller's stack.
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I2, I3, I6, I7, I8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.disks.volumes import VolumeDisks
from cloister.linux.process import kill_pidfd, pid_of_pidfd, start_ticks, wait_pidfd
from cloister.model.volume import VolumeMount
from cloister.network.slots import SlotOwner
from cloister.runtime.appearance import processors
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.namespace import rootfs, wire
from cloister.runtime.namespace.plan import Payload, setup_strings, shm_bytes
from cloister.runtime.namespace.zone import Slot, Zone
from cloister.runtime.namespace.zones import Zones
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec

__all__ = ["SlotStarter", "StartedSlot", "end_process", "state_of", "volume_mounts"]

_SETUP_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 30.0
_HIDDEN_CONTROLLERS = ("cpu", "freezer")
"""Control groups v1: a sandbox sees the files of the others."""


@dataclass(frozen=True, kw_only=True)
class StartedSlot:
    """A slot whose pid 1 runs the payload. The holder closes ``pidfd`` and ``netns_fd``."""

    zone: Zone
    slot: Slot
    pid: int
    ticks: int
    pidfd: int
    netns_fd: int
    boot_id: str
    restored: int = 1
    """The process inside that was pid 1 when the sandbox was saved with its memory; 1, unless it comes from an image."""
    namespaces: tuple[int, ...] = ()
    """pid, user, mnt, ipc, uts, cgroup, time, when it may have a zygote's children; the holder closes them."""
    kernels_end: int | None = None
    """The kernel's end of its socket to the agent, likewise."""
    trees: tuple[Path, ...] = ()
    """The directories that it stands on, held against removal."""


@dataclass(frozen=True, kw_only=True)
class SlotStarter:
    """Starts slots. ``filter`` is the seccomp filter of a sandbox, compiled."""

    resources: NodeResources
    groups: RuntimeGroups
    zones: Zones
    proc_tree: Path
    filter: bytes

    def start(
        self,
        spec: SandboxSpec,
        payload: Payload,
        fds: list[tuple[str, int]],
        upper: Callable[[int, ExitStack], int],
        undo: ExitStack,
        on_started: Callable[[dict[str, Any]], None] = lambda _state: None,
    ) -> StartedSlot:
        """A slot with its control group, address and mounts, whose pid 1 runs ``payload``; ``undo`` learns how to remove it.

        ``upper`` takes the sandbox's user namespace, and a stack that closes descriptors at the end, and gives the mount that the sandbox
        writes to. ``fds`` are further descriptors by role.

        Raises: IsolationError naming the step that failed, NoCapacityError.
        """
        self.resources.hold(spec.trees)
        undo.callback(self.resources.tree_locks.unlock, spec.trees)
        undo.callback(self.groups.remove, spec.sandbox_id)
        self.groups.create(spec.sandbox_id, spec.limits)
        zone, slot = self.zones.take_slot(spec.sharing.key)
        undo.callback(zone.free, slot)
        undo.callback(self.resources.network.release, slot.index)
        handles = zone.make(slot)
        undo.callback(end_process, handles.pidfd)
        with handles.control, ExitStack() as mounts:
            mounts.callback(os.close, handles.userns_fd)
            undo.callback(os.close, handles.netns_fd)
            pid = pid_of_pidfd(handles.pidfd)
            started = StartedSlot(
                zone=zone,
                slot=slot,
                pid=pid,
                ticks=start_ticks(pid) or 0,
                pidfd=handles.pidfd,
                netns_fd=handles.netns_fd,
                trees=spec.trees,
                boot_id=payload.boot_id,
                restored=1 if payload.restored is None else payload.restored.root,
            )
            on_started(state_of(started))  # before the sandbox has anything that a crash could leave behind
            self.resources.network.attach(slot.index, handles.netns_fd, spec.egress, SlotOwner(spec.sandbox_id, spec.team_id))
            given = [("group", rootfs.close_with(mounts, fd)) for fd in self.groups.tree.open_joining(spec.sandbox_id)]
            given += rootfs.layer_mounts(spec.layers, handles.userns_fd, mounts)
            given.append(("upper", upper(handles.userns_fd, mounts)))
            given += rootfs.further_mounts(spec.mounts, handles.userns_fd, mounts)
            undo.callback(self.resources.volumes.let_go, spec.sandbox_id)
            given += volume_mounts(self.resources.volumes, spec.sandbox_id, spec.volumes, handles.userns_fd, mounts)
            given.append(rootfs.memory_mount(shm_bytes(spec.limits), self.resources.blocks.first_id(slot.index), mounts))
            given += rootfs.common_mounts(spec.agent, self.proc_tree, self._own_group(spec.sandbox_id), handles.userns_fd, mounts)
            strings = setup_strings(payload, spec.limits, spec.hostname, processors(spec.limits, slot.index))
            received = wire.send_setup(handles.control, strings, [*given, *fds], self.filter, _SETUP_TIMEOUT_S)
        return replace(started, namespaces=tuple(received[:-1]), kernels_end=received[-1]) if received else started

    def _own_group(self, sandbox_id: str) -> dict[str, Path]:
        """The directories of the sandbox's control group that it may read, by controller."""
        found = self.groups.tree.directories(sandbox_id)
        return {controller: path for controller, path in found.items() if controller not in _HIDDEN_CONTROLLERS}


def volume_mounts(
    disks: VolumeDisks, sandbox_id: str, volumes: Sequence[VolumeMount], userns_fd: int, mounts: ExitStack
) -> list[tuple[str, int]]:
    """A mount of each volume for a sandbox, by role, which native/volumes.c attaches; ``mounts`` closes them."""
    found = []
    for one in volumes:
        fd = disks.mount(one.volume_id, sandbox_id, userns_fd, is_read_only=one.is_read_only)
        found.append((f"volume:{one.path}", rootfs.close_with(mounts, fd)))
    return found


def state_of(started: StartedSlot) -> dict[str, Any]:
    """What :meth:`Runtime.adopt` needs of a slot, JSON-ready."""
    place = {"pid": started.pid, "start_ticks": started.ticks, "zone": started.slot.zone, "slot": started.slot.number}
    return {**place, "trees": [str(tree) for tree in started.trees], "boot_id": started.boot_id, "restored": started.restored}


def end_process(pidfd: int) -> None:
    """Kill a process, wait until it has ended, and close its ``pidfd``."""
    kill_pidfd(pidfd)
    wait_pidfd(pidfd, _KILL_TIMEOUT_S)
    os.close(pidfd)
