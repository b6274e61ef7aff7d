"""The namespace runtime: a sandbox is a slot (namespaces, id range, mounts, pid 1) with a control group, a disk and a network address.

Each acquisition registers its undo; :meth:`NamespaceRuntime.create` reads top to bottom.
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I2, I3, I6, I7, I8.
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

from cloister.disks import images, kept
from cloister.errors import CloisterError, RuntimeFailedError
from cloister.linux.process import open_pidfd
from cloister.network.slots import SlotOwner
from cloister.runtime import start
from cloister.runtime.appearance import processors
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.namespace.checkpoint.checkpoints import Checkpoints, restored_payload
from cloister.runtime.namespace.checkpoint.probe import dump_and_restore
from cloister.runtime.namespace.diskcheck import check_disk
from cloister.runtime.namespace.plan import agent_payload
from cloister.runtime.namespace.proctree import make_proc_tree
from cloister.runtime.namespace.profile import compile_filters
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.sandbox import CAPABILITIES, DISK, DISK_TIMEOUT_S, NamespaceSandbox
from cloister.runtime.namespace.slots import SlotStarter, StartedSlot, end_process
from cloister.runtime.namespace.step import run_step
from cloister.runtime.namespace.zone import Zone
from cloister.runtime.namespace.zones import RUNTIME, Zones
from cloister.runtime.namespace.zygotes import KINDS, Birth, ZygoteHost, ZygoteOptions, Zygotes, kinds_for
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec, StepSpec

__all__ = ["NamespaceRuntime"]

_PREPARE_TIMEOUT_S = 30.0


class NamespaceRuntime:
    """See :class:`cloister.runtime.base.Runtime`."""

    name = RUNTIME

    def __init__(self, resources: NodeResources, *, has_zygotes: bool = True, checkpoint: str | None = None) -> None:
        """Find the slot makers that outlived an earlier supervisor. Without zygotes every sandbox starts its processes cold.

        ``checkpoint`` is the setting of that name.
        Raises: IsolationError, OSError.
        """
        self._resources = resources
        self._groups = resources.groups.of(self.name)
        self._zones_dir = resources.run_dir / "zones"
        self._zygotes: dict[Zone, Zygotes] = {}
        self._zygotes_lock = threading.Lock()
        self._is_stopping = False
        self._looking_ahead = threading.Lock()
        self._zones = Zones(self._zones_dir, resources.blocks, self._groups)
        filters, proc_tree = compile_filters(), make_proc_tree(resources.data_dir)
        self._zygote_host = ZygoteHost(enabled=has_zygotes, proc_tree=proc_tree, groups=self._groups, filters=filters, tell=resources.tell)
        self._starter = SlotStarter(
            resources=resources, groups=self._groups, zones=self._zones, proc_tree=proc_tree, filter=filters.sandbox
        )
        self._checkpoints = Checkpoints(checkpoint, resources, self._groups.tree, filters.sandbox)
        resources.disk_check.offer(partial(check_disk, self._starter))
        self._zones.adopt_all()

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """See :class:`Runtime`."""
        return replace(CAPABILITIES, checkpoint=self._checkpoints.works)

    def prepare(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`."""
        zone, slot = self._zones.take_slot(spec.sharing.key)
        try:
            self._zygotes_of(zone, spec).wait(_PREPARE_TIMEOUT_S)
        finally:
            zone.free(slot)

    def has_room(self, sharing_key: str) -> bool:
        """See :class:`Runtime`."""
        return self._zones.has_room(sharing_key)

    def let_go(self, idle_s: float) -> list[str]:
        """See :class:`Runtime`."""
        ended = self._zones.stop_idle(idle_s)
        for key in ended:
            self._resources.tell("zone.ended", {"template_key": key, "idle_s": idle_s})
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
            disk = self._open_kept_disk(spec, undo) if spec.has_disk else self._take_disk(spec, undo)
            undo.callback(os.close, disk)
            self._resources.space.admit(spec.sandbox_id, spec.directory / DISK, disk)
            undo.callback(self._resources.space.forget, spec.sandbox_id)
            ready, ready_writer = os.pipe()
            undo.callback(os.close, ready)
            init = os.memfd_create("init", os.MFD_CLOEXEC)
            undo.callback(os.close, init)
            os.write(init, spec.init_document)

            with ExitStack() as given:
                given.callback(os.close, ready_writer)
                agents_end, init_end = _birth_pair(given)
                fds = [("init", init), ("status", ready_writer), ("birth", init_end.fileno())]
                payload = agent_payload(spec.envs, spec.hostname, spec.agent_log, has_disk=spec.has_disk)
                started = self._starter.start(spec, payload, fds, partial(_map_disk, disk), undo, on_started)
                undo.callback(_close_all, started.namespaces)
                init_end.close()
                assert started.kernels_end is not None  # it has a birth descriptor
                kernels_end = close_with(given, started.kernels_end)
                cold = self._give_birth(spec, started, {"kernel": kernels_end, "agent": agents_end.fileno()})
            start.wait_serving(ready, started.pidfd)
            starting = None if spec.start_timeout_s is None else ready
            if starting is None:
                os.close(ready)
            _close_all(started.namespaces)
            undo.pop_all()
        self._look_ahead(spec)
        sandbox = NamespaceSandbox(
            spec, started, self._resources, self._groups,
            init_fd=init, disk_fd=disk, cold=cold, starting=starting, checkpoints=self._checkpoints,
        )  # fmt: skip
        self._bound_disk(spec.sandbox_id, sandbox)
        return sandbox

    def probe(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`."""
        self._checkpoints.prove(spec.sandbox_id, lambda: dump_and_restore(self, spec), self._resources.tell)

    def close_copy(self, directory: Path) -> None:
        """See :class:`Runtime`."""
        image = directory / DISK
        check_disk(self._starter, image)  # always has something to repair: the superblock is that of a mounted disk
        kept.close_disk(image, DISK_TIMEOUT_S)

    def restore(
        self, spec: SandboxSpec, image: Path, on_started: Callable[[dict[str, Any]], None], disk_from: Path | None = None
    ) -> NamespaceSandbox:
        """See :class:`Runtime`."""
        manifest = self._checkpoints.check(image, spec)
        further = tuple(tree for tree in map(Path, manifest.trees) if tree not in spec.trees)  # a release may have a newer agent
        with ExitStack() as undo:
            self._resources.hold(further)
            undo.callback(self._resources.tree_locks.unlock, further)
            if disk_from is not None:
                with self._resources.space.claim(spec.directory, (disk_from / DISK).stat().st_blocks * 512):
                    kept.copy_disk(disk_from / DISK, spec.directory / DISK)
            disk = self._open_kept_disk(spec, undo)
            undo.callback(os.close, disk)
            self._resources.space.admit(spec.sandbox_id, spec.directory / DISK, disk)
            undo.callback(self._resources.space.forget, spec.sandbox_id)
            payload = restored_payload(spec, manifest)
            started = self._starter.start(spec, payload, [], partial(_map_disk, disk), undo, on_started)
            started = replace(started, trees=(*spec.trees, *further))
            group = self._groups.tree.open_joining(spec.sandbox_id)
            try:
                self._checkpoints.fill(started, spec, image, manifest, group)
            finally:
                _close_all(group)
            undo.pop_all()
        sandbox = NamespaceSandbox(spec, started, self._resources, self._groups, init_fd=None, disk_fd=disk, checkpoints=self._checkpoints)
        self._bound_disk(spec.sandbox_id, sandbox)
        return sandbox

    def _take_disk(self, spec: SandboxSpec, undo: ExitStack) -> int:
        image = spec.directory / DISK
        undo.callback(image.unlink, missing_ok=True)
        return self._resources.disks.take(image, spec.limits.disk_mib, spec.limits.inodes)

    def _open_kept_disk(self, spec: SandboxSpec, undo: ExitStack) -> int:
        """The disk of an earlier sandbox. When the creation fails, it is closed again."""
        image = spec.directory / DISK

        def check() -> None:
            report = check_disk(self._starter, image)
            self._resources.tell("disk.checked", {"sandbox_id": spec.sandbox_id, "report": report})

        def close() -> None:
            try:
                kept.close_disk(image, DISK_TIMEOUT_S)
            except (CloisterError, OSError) as error:  # the error to be told is the creation's; the next creation checks the disk
                self._resources.tell("disk.not_closed", {"sandbox_id": spec.sandbox_id, "error": str(error)})

        try:
            disk = kept.open_disk(image, check, DISK_TIMEOUT_S)
        except FileNotFoundError as error:
            raise RuntimeFailedError(f"the disk of sandbox {spec.sandbox_id} is gone") from error
        undo.callback(close)
        return disk

    def find_disk(self, spec: SandboxSpec) -> bool:
        """See :class:`Runtime`."""
        try:
            kept.settle_disk(spec.directory / DISK, DISK_TIMEOUT_S)
        except FileNotFoundError:
            return False
        return True

    def _bound_disk(self, sandbox_id: str, sandbox: NamespaceSandbox) -> None:
        """Bound the rate of a sandbox's disk, and say how to end the sandbox when the space of the host runs out."""
        self._resources.space.when_full(sandbox_id, sandbox.end_for_space)
        sandbox.bound_rates()

    def _give_birth(self, spec: SandboxSpec, started: StartedSlot, ends: dict[str, int]) -> tuple[str, ...]:
        """Let the zygotes fork the sandbox's agent and kernel, both at a time; gives those that it must start cold."""
        zygotes = self._zygotes_of(started.zone, spec)
        files = self._groups.tree.open_joining(spec.sandbox_id)
        birth = Birth(
            namespaces=[started.netns_fd, *started.namespaces],
            group_files=files,
            cpus=processors(spec.limits, started.slot.index),
            nofile=spec.limits.open_files,
        )
        forked, asked, kinds = set(), [], kinds_for(spec)
        try:
            for kind, end in ends.items():
                zygote = zygotes.ready(kind) if kind in kinds else None
                if zygote is not None and self._succeeds(partial(zygote.ask, birth, end), spec):
                    asked.append(zygote)
            forked = {zygote.kind for zygote in asked if self._succeeds(zygote.answer, spec)}
        finally:
            _close_all(files)
        return tuple(kind for kind in ends if kind in kinds and kind not in forked)

    def _look_ahead(self, spec: SandboxSpec) -> None:
        """Have the next zone of the template, with its zygotes, before the last one is full."""
        if self._zones.is_short(spec.sharing.key) and self._looking_ahead.acquire(blocking=False):
            threading.Thread(target=self._start_next_zone, args=(spec,), name="next-zone", daemon=True).start()

    def _start_next_zone(self, spec: SandboxSpec) -> None:
        try:
            zone = self._zones.start_next(spec.sharing.key)
            if zone is not None:
                self._zygotes_of(zone, spec).wait(_PREPARE_TIMEOUT_S)
        except (CloisterError, OSError) as error:  # thread border: the creation that needs the zone tries again, and tells its client
            self._resources.tell("zone.not_started", {"error": str(error)})
        finally:
            self._looking_ahead.release()

    def _succeeds(self, step: Callable[[], None], spec: SandboxSpec) -> bool:
        try:
            step()
        except RuntimeFailedError as error:  # the sandbox does without: it starts cold
            self._resources.tell("zygote.missed", {"sandbox_id": spec.sandbox_id, "error": str(error)})
            return False
        return True

    def _zygotes_of(self, zone: Zone, spec: SandboxSpec) -> Zygotes:
        with self._zygotes_lock:
            found = self._zygotes.get(zone)
            if found is None:
                options = ZygoteOptions.of(spec)
                self._resources.hold(options.trees)
                found = self._zygotes[zone] = Zygotes(zone, options, self._zygote_host)
                zone.on_stop = lambda: self._forget_zygotes(zone, options)
                if self._is_stopping:
                    found.stop()
        return found

    def _forget_zygotes(self, zone: Zone, options: ZygoteOptions) -> None:
        with self._zygotes_lock:
            found = self._zygotes.pop(zone, None)
        if found is not None:
            found.stop()
            self._resources.tree_locks.unlock(options.trees)

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> NamespaceSandbox | None:
        """See :class:`Runtime`."""
        pidfd = open_pidfd(state["pid"], state["start_ticks"]) if "pid" in state else None  # only a disk is kept of it
        if pidfd is None:
            return None
        held = self._zones.hold_slot(state["zone"], state["slot"])
        if held is None:
            self._groups.tree.thaw(spec.sandbox_id)  # v1 ends no frozen process
            end_process(pidfd)
            return None
        zone, slot = held
        with ExitStack() as undo:
            undo.callback(zone.free, slot)
            undo.callback(self._resources.network.release, slot.index)
            undo.callback(end_process, pidfd)
            undo.callback(self._groups.tree.thaw, spec.sandbox_id)
            netns_fd = os.open(f"/proc/{state['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, netns_fd)
            self._resources.network.attach(slot.index, netns_fd, spec.egress, SlotOwner(spec.sandbox_id, spec.team_id))
            self._groups.tree.allow_swap(spec.sandbox_id, allowed=False)  # the earlier supervisor may have died while it paged out
            loop = state.get("loop")  # absent when its creation was cut off: then it is only ended
            undo.callback(self._resources.volumes.let_go, spec.sandbox_id)
            for one in spec.volumes:
                self._resources.volumes.adopt(one.volume_id, spec.sandbox_id)
            disk_fd = None if loop is None else images.reopen_disk(spec.directory / DISK, loop)
            if disk_fd is not None:
                undo.callback(os.close, disk_fd)
            trees = tuple(Path(tree) for tree in state.get("trees", ()) if Path(tree).is_dir())
            self._resources.tree_locks.lock(trees)
            undo.callback(self._resources.tree_locks.unlock, trees)
            started = StartedSlot(
                zone=zone,
                slot=slot,
                pid=state["pid"],
                ticks=state["start_ticks"],
                pidfd=pidfd,
                netns_fd=netns_fd,
                trees=trees,
                boot_id=state.get("boot_id", ""),
                restored=state.get("restored", 1),
            )
            sandbox = NamespaceSandbox(
                spec, started, self._resources, self._groups, init_fd=None, disk_fd=disk_fd, checkpoints=self._checkpoints
            )
            if disk_fd is not None:
                self._resources.space.adopt(spec.sandbox_id, spec.directory / DISK, disk_fd)
                undo.callback(self._resources.space.forget, spec.sandbox_id)
                self._bound_disk(spec.sandbox_id, sandbox)
            self._groups.claim(spec.sandbox_id)  # last: after an error the node's sweep must end the group
            undo.pop_all()
        return sandbox

    def run_step(self, step: StepSpec, log: Callable[[bytes], None], /) -> int:
        """See :class:`Runtime`."""
        return run_step(self._starter, step, log)

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """See :class:`Runtime`. A slot belongs to a sandbox that this object holds, or to none: ``known`` is not needed."""
        del known
        return self._zones.kill_strangers()

    def survey(self) -> list[str]:
        """See :class:`Runtime`."""
        return self._zones.survey()

    def stop(self) -> None:
        """See :class:`Runtime`."""
        self._groups.tree.thaw_all()  # else a slot maker on v1 waits for ever for the ends of frozen sandboxes
        self._zones.stop()
        shutil.rmtree(self._zones_dir, ignore_errors=True)


def _map_disk(disk: int, userns_fd: int, mounts: ExitStack) -> int:
    return close_with(mounts, images.map_disk(disk, userns_fd))


def _birth_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A zygote's child's end, and the end by which pid 1 learns from it who it is. ``stack`` closes both."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.callback(theirs.close)
    stack.callback(ours.close)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return theirs, ours


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
