"""The namespace runtime: a sandbox is a slot (namespaces, id range, mounts, pid 1) with a control group, a disk and a network address.

Runs in: supervisor, in worker threads. Each acquisition registers its undo; :meth:`NamespaceRuntime.create` reads top to bottom.
Invariants: I2, I3, I6, I7, I8. Needs: root.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError, IsolationError, RuntimeFailedError
from cloister.linux.cgroup import CgroupTree
from cloister.linux.holds import Holds
from cloister.linux.process import kill_pidfd, open_pidfd, pid_of_pidfd, start_ticks, wait_pidfd
from cloister.network.slots import NetworkNode
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.namespace import rootfs, start, wire
from cloister.runtime.namespace.disks import Disks
from cloister.runtime.namespace.plan import Payload, agent_payload, setup_strings
from cloister.runtime.namespace.procfiles import processors
from cloister.runtime.namespace.sandbox import NamespaceSandbox, StartedSlot, state_of
from cloister.runtime.namespace.zone import Zone
from cloister.runtime.namespace.zones import Zones
from cloister.runtime.namespace.zygotes import KINDS, Birth, ZygoteHost, Zygotes, kinds_for
from cloister.runtime.spec import SandboxSpec

__all__ = ["NamespaceRuntime"]

_SETUP_TIMEOUT_S = 30.0
_PREPARE_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 30.0


class NamespaceRuntime:
    """See :class:`cloister.runtime.base.Runtime`. ``run_dir`` holds sockets."""

    name = "namespace"
    capabilities = RuntimeCapabilities()

    def __init__(
        self,
        *,
        run_dir: Path,
        uid_base: int,
        cgroups: CgroupTree,
        network: NetworkNode,
        zygotes: ZygoteHost,
    ) -> None:
        self.cgroups = cgroups
        self.network = network
        self.holds = Holds()
        self._run_dir = run_dir
        self._dev_tree = zygotes.dev_tree
        self._disks = Disks(zygotes.dev_tree.parent / "disks", zygotes.tell)
        self._zygote_host = zygotes
        self._zygotes: dict[Zone, Zygotes] = {}
        self._zygotes_lock = threading.Lock()
        self._is_stopping = False
        self._looking_ahead = threading.Lock()
        self._zones = Zones(run_dir / "zones", uid_base, cgroups)
        cgroups.thaw_all()
        self._zones.adopt_all()
        self._own_groups: set[str] = set()
        """Control groups of sandboxes and build steps that this object has made and not yet removed."""

    def prepare(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`."""
        zone, slot = self._zones.take_slot(spec.template_key)
        try:
            self._zygotes_of(zone, spec).wait(_PREPARE_TIMEOUT_S)
        finally:
            zone.free(slot)

    def has_room(self, template_key: str) -> bool:
        """See :class:`Runtime`."""
        return self._zones.has_room(template_key)

    def let_go(self, idle_s: float) -> list[str]:
        """See :class:`Runtime`."""
        ended = self._zones.stop_idle(idle_s)
        for key in ended:
            self._zygote_host.tell("zone.ended", {"template_key": key, "idle_s": idle_s})
        return ended

    def stop_preparing(self) -> None:
        """See :class:`Runtime`."""
        with self._zygotes_lock:
            self._is_stopping = True
            found = list(self._zygotes.values())
        for zygotes in found:
            zygotes.stop()

    def prepared(self) -> dict[str, int]:
        """See :class:`Runtime`."""
        with self._zygotes_lock:
            found = list(self._zygotes.values())
        return {kind: sum(zygotes.is_ready(kind) for zygotes in found) for kind in KINDS}

    def create(self, spec: SandboxSpec, on_started: Callable[[dict[str, Any]], None]) -> NamespaceSandbox:
        """See :class:`Runtime`."""
        with ExitStack() as undo:
            undo.callback((spec.directory / "disk.img").unlink, missing_ok=True)
            disk = self._disks.take(spec.directory / "disk.img", spec.limits.disk_mib, spec.limits.inodes)
            undo.callback(os.close, disk)
            ready, ready_writer = os.pipe()
            undo.callback(os.close, ready)
            init = os.memfd_create("init", os.MFD_CLOEXEC)
            undo.callback(os.close, init)
            os.write(init, spec.init_document)

            with ExitStack() as given:
                given.callback(os.close, ready_writer)
                agents_end, init_end = _birth_pair(socket.SOCK_SEQPACKET, given)
                kernels_end, agent_end = _birth_pair(socket.SOCK_STREAM, given)
                fds = [("init", init), ("status", ready_writer), ("birth", init_end.fileno()), ("kernel", agent_end.fileno())]
                payload = agent_payload(spec.envs, spec.hostname, spec.agent_log)
                started = self.start_slot(spec, payload, fds, partial(_own_mounts, spec, disk), undo, on_started)
                undo.callback(_close_all, started.namespaces)
                init_end.close()
                agent_end.close()
                cold = self._give_birth(spec, started, {"kernel": kernels_end, "agent": agents_end})
            start.wait_serving(ready, started.pidfd)
            starting = None if spec.start_timeout_s is None else ready
            if starting is None:
                os.close(ready)
            _close_all(started.namespaces)
            undo.pop_all()
        self._look_ahead(spec)
        return NamespaceSandbox(spec, started, self, init_fd=init, disk_fd=disk, cold=cold, starting=starting)

    def _give_birth(self, spec: SandboxSpec, started: StartedSlot, ends: dict[str, socket.socket]) -> tuple[str, ...]:
        """Let the zygotes fork the sandbox's agent and kernel, both at a time; gives those that it must start cold."""
        zygotes = self._zygotes_of(started.zone, spec)
        files = self.cgroups.open_joining(spec.sandbox_id)
        birth = Birth(
            namespaces=[started.netns_fd, *started.namespaces],
            group_files=files,
            cpus=processors(spec.limits, started.slot.index),
            nofile=spec.limits.open_files,
        )
        forked, asked = set(), []
        try:
            for kind, end in ends.items():
                zygote = zygotes.ready(kind)
                if zygote is not None and self._succeeds(partial(zygote.ask, birth, end.fileno()), spec):
                    asked.append(zygote)
            forked = {zygote.kind for zygote in asked if self._succeeds(zygote.answer, spec)}
        finally:
            _close_all(files)
        return tuple(kind for kind in ends if kind in kinds_for(spec) and kind not in forked)

    def _look_ahead(self, spec: SandboxSpec) -> None:
        """Have the next zone of the template, with its zygotes, before the last one is full."""
        if self._zones.is_short(spec.template_key) and self._looking_ahead.acquire(blocking=False):
            threading.Thread(target=self._start_next_zone, args=(spec,), name="next-zone", daemon=True).start()

    def _start_next_zone(self, spec: SandboxSpec) -> None:
        try:
            zone = self._zones.start_next(spec.template_key)
            if zone is not None:
                self._zygotes_of(zone, spec).wait(_PREPARE_TIMEOUT_S)
        except (CloisterError, OSError) as error:  # thread border: the creation that needs the zone tries again, and tells its client
            self._zygote_host.tell("zone.not_started", {"error": str(error)})
        finally:
            self._looking_ahead.release()

    def _succeeds(self, step: Callable[[], None], spec: SandboxSpec) -> bool:
        try:
            step()
        except RuntimeFailedError as error:  # the sandbox does without: it starts cold
            self._zygote_host.tell("zygote.missed", {"sandbox_id": spec.sandbox_id, "error": str(error)})
            return False
        return True

    def _zygotes_of(self, zone: Zone, spec: SandboxSpec) -> Zygotes:
        with self._zygotes_lock:
            found = self._zygotes.get(zone)
            if found is None:
                if spec.zygote_layers is not None:
                    spec = replace(spec, layers=spec.zygote_layers)
                self._hold(spec)
                found = self._zygotes[zone] = Zygotes(zone, spec, self._zygote_host)
                zone.on_stop = lambda: self._forget_zygotes(zone, spec)
                if self._is_stopping:
                    found.stop()
        return found

    def _hold(self, spec: SandboxSpec) -> None:
        try:
            self.holds.take(spec.trees)
        except OSError as error:
            raise IsolationError(f"a layer of the template is gone: {error}", step="layers", path=str(error.filename)) from error

    def _forget_zygotes(self, zone: Zone, spec: SandboxSpec) -> None:
        with self._zygotes_lock:
            found = self._zygotes.pop(zone, None)
        if found is not None:
            found.stop()
            self.holds.give(spec.trees)

    def start_slot(
        self,
        spec: SandboxSpec,
        payload: Payload,
        fds: list[tuple[str, int]],
        mounts_of: Callable[[int, ExitStack], list[tuple[str, int]]],
        undo: ExitStack,
        on_started: Callable[[dict[str, Any]], None],
    ) -> StartedSlot:
        """A slot with its control group, address and mounts, whose pid 1 runs ``payload``; ``undo`` learns how to remove it.

        ``mounts_of`` takes the sandbox's user namespace and what closes descriptors, and gives the mounts that are this sandbox's own by
        role: the writable layer, ``upper``, and perhaps ``mount:/path``.

        Raises: IsolationError naming the step that failed, NoCapacityError.
        """
        self._hold(spec)
        undo.callback(self.holds.give, spec.trees)
        self._own_groups.add(spec.sandbox_id)
        undo.callback(self.remove_group, spec.sandbox_id)
        self.cgroups.create(spec.sandbox_id, spec.limits)
        zone, slot = self._zones.take_slot(spec.template_key)
        undo.callback(zone.free, slot)
        undo.callback(self.network.release, slot.index)
        handles = zone.make(slot)
        undo.callback(_end, handles.pidfd)
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
            )
            on_started(state_of(started))
            self.network.attach(slot.index, handles.netns_fd, spec.allow_internet)
            own_group = {name: path for name, path in self.cgroups.directories(spec.sandbox_id).items() if name not in ("cpu", "freezer")}
            given = [("group", rootfs.close_with(mounts, fd)) for fd in self.cgroups.open_joining(spec.sandbox_id)]
            given += rootfs.layer_mounts(spec.layers, handles.userns_fd, mounts)
            given += mounts_of(handles.userns_fd, mounts)
            given += rootfs.common_mounts(spec.agent, self._dev_tree, own_group, handles.userns_fd, mounts)
            strings = setup_strings(payload, spec.limits, spec.hostname, processors(spec.limits, slot.index))
            namespaces = wire.send_setup(handles.control, strings, [*given, *fds], self._zygote_host.filters.sandbox, _SETUP_TIMEOUT_S)
        return replace(started, namespaces=tuple(namespaces))

    def remove_group(self, sandbox_id: str) -> None:
        """Remove the control group of a sandbox that has ended. Raises: OSError, when it is busy."""
        try:
            self.cgroups.remove(sandbox_id)
        finally:
            self._own_groups.discard(sandbox_id)

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> NamespaceSandbox | None:
        """See :class:`Runtime`."""
        pidfd = open_pidfd(state["pid"], state["start_ticks"])
        if pidfd is None:
            return None
        held = self._zones.hold_slot(state["zone"], state["slot"])
        if held is None:
            _end(pidfd)
            return None
        zone, slot = held
        with ExitStack() as undo:
            undo.callback(zone.free, slot)
            undo.callback(self.network.release, slot.index)
            undo.callback(_end, pidfd)
            netns_fd = os.open(f"/proc/{state['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, netns_fd)
            self.network.attach(slot.index, netns_fd, spec.allow_internet)
            loop = state.get("loop")  # absent when its creation was cut off: then it is only ended
            disk_fd = None if loop is None else rootfs.reopen_disk(spec.directory / "disk.img", loop)
            undo.pop_all()
        trees = tuple(Path(tree) for tree in state.get("trees", ()) if Path(tree).is_dir())
        self.holds.take(trees)
        started = StartedSlot(
            zone=zone, slot=slot, pid=state["pid"], ticks=state["start_ticks"], pidfd=pidfd, netns_fd=netns_fd, trees=trees
        )
        return NamespaceSandbox(spec, started, self, init_fd=None, disk_fd=disk_fd)

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """See :class:`Runtime`. Call it after every :meth:`adopt`, before the first :meth:`create`."""
        removed = self._zones.kill_strangers()
        found = self.cgroups.names()
        for name in found - known() - self._own_groups - self._zones.groups():
            self.cgroups.end(name)
            removed.append(f"control group {name}")
        return removed

    def survey(self) -> list[str]:
        """See :class:`Runtime`."""
        self._disks.settle()
        groups = [f"control group {name}" for name in sorted(self.cgroups.names())]
        return [*self._zones.survey(), *groups, *self.network.survey()]

    def stop(self) -> None:
        """See :class:`Runtime`."""
        self._disks.close()
        self._zones.stop()
        self.network.stop()
        self.cgroups.remove_all()
        shutil.rmtree(self._run_dir / "zones", ignore_errors=True)


def _own_mounts(spec: SandboxSpec, disk: int, userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
    upper = ("upper", rootfs.close_with(stack, rootfs.map_disk(disk, userns_fd)))
    return [upper] if spec.context is None else [upper, rootfs.context_mount(spec.context, userns_fd, stack)]


def _birth_pair(kind: socket.SocketKind, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A zygote's child's end, and the end that learns from it who it is. ``stack`` closes both."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, kind)
    stack.callback(theirs.close)
    stack.callback(ours.close)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return theirs, ours


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _end(pidfd: int) -> None:
    kill_pidfd(pidfd)
    wait_pidfd(pidfd, _KILL_TIMEOUT_S)
    os.close(pidfd)
