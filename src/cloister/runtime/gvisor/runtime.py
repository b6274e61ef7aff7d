"""The gVisor runtime: a sandbox is two processes (its own kernel and its gofer) with a control group, a disk and a network address.

Each acquisition registers its undo; :meth:`GvisorRuntime.create` reads top to bottom.
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I1, I2, I6, I7, I8.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources as package
from itertools import permutations
from pathlib import Path
from typing import Any, NoReturn

from cloister.disks import images, kept
from cloister.errors import AgentUnreachableError, CloisterError, InvalidRequestError, IsolationError, RuntimeFailedError
from cloister.linux.netns import new_netns
from cloister.linux.process import kill_pidfd, open_pidfd, wait_pidfd
from cloister.model.resources import Limits
from cloister.network.slots import SlotOwner
from cloister.runtime import start
from cloister.runtime.appearance import own_files, processors
from cloister.runtime.gvisor.bootimages import MEMORY, BootImages, booted_spec, can_be_booted, key_of
from cloister.runtime.gvisor.booting import become, start_kernels, wait_for_kernel
from cloister.runtime.gvisor.client import Box, Client, Member
from cloister.runtime.gvisor.halt import Halt
from cloister.runtime.gvisor.launch import Plan
from cloister.runtime.gvisor.manifest import Manifest
from cloister.runtime.gvisor.program import Runsc
from cloister.runtime.gvisor.sandbox import CAPABILITIES, DISK, DISK_TIMEOUT_S, GvisorSandbox, Started, state_of
from cloister.runtime.gvisor.slots import Slots
from cloister.runtime.gvisor.watch import Watch
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec, StepSpec

__all__ = ["RUNTIME", "GvisorRuntime", "group_limits", "guest_binary"]

RUNTIME = "gvisor"
"""The name of this runtime."""
_OWN_MEM_MIB = 96
"""Memory for a sandbox's kernel and gofer, beside that of its programs."""
_OWN_PIDS = 256
_END_TIMEOUT_S = 30.0
_GUEST = "guest"
"""The name of the directory with a sandbox's first program, in the sandbox's own."""


@dataclass(frozen=True)
class Place:
    """Where a sandbox's first program is, and what it is restored from, if it is."""

    guest: Path
    image: Path | None = None


class GvisorRuntime:
    """See :class:`cloister.runtime.base.Runtime`."""

    name = RUNTIME
    capabilities = CAPABILITIES

    def __init__(self, resources: NodeResources, find: Callable[[], Runsc], kernels: tuple[str, ...] = ()) -> None:
        """``find`` gives the program ``runsc``, or raises UnavailableError. ``kernels`` are languages that images have kernels of."""
        self._resources = resources
        self._groups = resources.groups.of(self.name)
        self._find = find
        self._kernels = kernels
        self._client = Client(lambda: find().path, resources.run_dir / self.name)
        self._images = BootImages(resources.data_dir / self.name)
        self._booting = threading.Lock()
        self._is_stopping = False
        self._slots = Slots(resources.blocks, self.name)
        self._watch = Watch(resources.tell)

    def prepare(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`: boots the template once, and saves it."""
        if can_be_booted(spec):
            self._boot(spec)

    def _boot(self, spec: SandboxSpec) -> None:
        key, kernels = self._key_of(spec), self._kernels_of(spec)

        def work(directory: Path) -> None:
            with self._resources.space.claim(directory, spec.limits.mem_mib << 19):
                booted = booted_spec(spec, f"gvisor-{key[:16]}", directory)
                sandbox = self._create_cold(booted, lambda _state: None)
                try:
                    if "python" in spec.languages:
                        wait_for_kernel(sandbox)
                    if kernels:
                        start_kernels(sandbox, kernels)
                    sandbox.freeze()
                    sandbox.checkpoint(directory / MEMORY, is_durable=False)
                    sandbox.kill()
                    sandbox.keep_disk()
                finally:
                    sandbox.kill()
                    sandbox.release()

        self._images.make(key, work)

    def _kernels_of(self, spec: SandboxSpec) -> tuple[str, ...]:
        """The languages whose kernels its image has. Python's default kernel is there in any case."""
        return tuple(name for name in self._kernels if name in spec.languages and name != "python")

    def _key_of(self, spec: SandboxSpec) -> str:
        return key_of(spec, self._find().version, self._slots.a_first_id(), self._kernels_of(spec))

    def has_room(self, sharing_key: str) -> bool:
        """See :class:`Runtime`."""
        del sharing_key
        return self._slots.has_room()

    def let_go(self, idle_s: float) -> list[str]:
        """See :class:`Runtime`: images of booted templates that are gone, however long they were not used."""
        del idle_s
        return [f"gvisor image {key}" for key in self._images.drop_stale()]

    def stop_preparing(self) -> None:
        """See :class:`Runtime`."""
        self._is_stopping = True

    def prepared(self) -> dict[str, int]:
        """See :class:`Runtime`."""
        return {}

    def create(self, spec: SandboxSpec, on_started: Callable[[dict[str, Any]], None]) -> GvisorSandbox:
        """See :class:`Runtime`: from the image of the booted template, or cold where there is none yet."""
        if not can_be_booted(spec):
            return self._create_cold(spec, on_started)
        key = self._key_of(spec)
        if (image := self._images.find(key)) is not None:
            try:
                return self._create_from(spec, image, on_started)
            except (IsolationError, RuntimeFailedError, AgentUnreachableError, OSError) as error:  # it isolates as well when it begins cold
                self._resources.tell("image.dropped", {"sandbox_id": spec.sandbox_id, "error": str(error)})
                self._images.drop(key)
        sandbox = self._create_cold(spec, on_started)
        self._boot_later(spec)
        return sandbox

    def _create_from(self, spec: SandboxSpec, image: Path, on_started: Callable[[dict[str, Any]], None]) -> GvisorSandbox:
        restored = self.restore(replace(spec, has_disk=True), image / MEMORY, on_started, image)
        try:
            become(restored, spec)
        except BaseException:
            restored.kill()
            restored.release()
            raise
        return restored

    def _boot_later(self, spec: SandboxSpec) -> None:
        """Make the image for the next sandbox like this, one image at a time."""
        if not self._is_stopping and self._booting.acquire(blocking=False):
            threading.Thread(target=self._boot_now, args=(spec,), name="boot-image", daemon=True).start()

    def _boot_now(self, spec: SandboxSpec) -> None:
        try:
            self._boot(spec)
        except (CloisterError, OSError) as error:  # a thread's border: sandboxes begin cold
            self._resources.tell("image.not_made", {"error": str(error)})
        finally:
            self._booting.release()

    def _create_cold(self, spec: SandboxSpec, on_started: Callable[[dict[str, Any]], None]) -> GvisorSandbox:
        with ExitStack() as undo:
            disk = self._open_kept_disk(spec, undo) if spec.has_disk else self._take_disk(spec, undo)
            undo.callback(os.close, disk)
            self._resources.space.admit(spec.sandbox_id, spec.directory / DISK, disk)
            undo.callback(self._resources.space.forget, spec.sandbox_id)
            ready, ready_writer = os.pipe()
            undo.callback(os.close, ready)
            with ExitStack() as given:
                given.callback(os.close, ready_writer)
                init = os.memfd_create("init", os.MFD_CLOEXEC)
                given.callback(os.close, init)
                os.write(init, spec.init_document)
                os.lseek(init, 0, os.SEEK_SET)
                started = self._start(spec, disk, (init, ready_writer), undo, Place(guest_binary().parent))
            on_started(state_of(started))
            start.wait_serving(ready, started.kernel_fd)
            starting = None if spec.start_timeout_s is None else ready
            if starting is None:
                os.close(ready)
            undo.pop_all()
        sandbox = GvisorSandbox(spec, started, self._resources, self._groups, disk_fd=disk, starting=starting)
        self._look_after(spec.sandbox_id, sandbox)
        return sandbox

    def _start(self, spec: SandboxSpec, disk: int, stdio: tuple[int, int], undo: ExitStack, place: Place) -> Started:
        """The processes, with their control group and network; ``undo`` learns how to remove all of it."""
        self._resources.hold(spec.trees)
        undo.callback(self._resources.tree_locks.unlock, spec.trees)
        undo.callback(self._groups.remove, spec.sandbox_id)
        self._groups.create(spec.sandbox_id, group_limits(spec.limits))
        slot = self._slots.take()
        undo.callback(self._slots.free, slot)
        undo.callback(self._resources.network.release, slot)
        netns = new_netns()
        undo.callback(os.close, netns)
        self._resources.network.attach(slot, netns, spec.egress, SlotOwner(spec.sandbox_id, spec.team_id))
        undo.callback(self._client.forget, spec.sandbox_id)
        undo.callback(self._groups.tree.kill_all, spec.sandbox_id)
        _show_guest(place.guest, spec.directory / _GUEST)
        with ExitStack() as given:
            joining = self._groups.tree.open_joining(spec.sandbox_id)
            for fd in joining:
                given.callback(os.close, fd)
            plan = self._plan(spec, (slot, disk, netns), joining)
            undo.callback(self._resources.volumes.let_go, spec.sandbox_id)
            plan = replace(plan, volumes=[one.path for one in spec.volumes], volume_fds=self._volumes(spec, given))
            box = self._client.start(spec, plan, stdio, place.image)
        kernel, gofer = _open(box.kernel), _open(box.gofer)
        undo.callback(_end, kernel, gofer)
        return Started(
            box=box,
            slot=slot,
            kernel_fd=kernel,
            gofer_fd=gofer,
            netns_fd=netns,
            trees=spec.trees,
            free_slot=partial(self._slots.free, slot),
            guest=spec.directory / _GUEST,
            manifest=Manifest.of(spec, self._find().version, self._slots.first_id(slot)),
            client=self._client,
        )

    def _volumes(self, spec: SandboxSpec, given: ExitStack) -> list[int]:
        """A mount of each volume, which ``given`` closes. Raises: InvalidRequestError, and as :meth:`VolumeDisks.mount`."""
        paths = [one.path for one in spec.volumes]
        if any(path == other or path.startswith(f"{other}/") for path, other in permutations(paths, 2)):
            raise InvalidRequestError("on gVisor no volume can be mounted in another one")
        fds = []
        for one in spec.volumes:
            fds.append(self._resources.volumes.mount(one.volume_id, spec.sandbox_id, None, is_read_only=one.is_read_only))
            given.callback(os.close, fds[-1])
        return fds

    def _plan(self, spec: SandboxSpec, numbers: tuple[int, int, int], joining: list[int]) -> Plan:
        slot, disk, netns = numbers
        if spec.agent is None or any(mount.is_writable or not isinstance(mount.source, Path) for mount in spec.mounts):
            raise RuntimeFailedError("the gvisor runtime runs no build steps")
        return Plan(
            first_id=self._slots.first_id(slot),
            layers=[str(layer) for layer in spec.layers],
            interpreter=[str(layer) for layer in spec.agent.interpreter],
            agent=str(spec.agent.agent),
            guest=str(spec.directory / _GUEST),
            further=[str(mount.source) for mount in spec.mounts],
            disk_fd=disk,
            netns_fd=netns,
            group_fds=joining,
            files=own_files(spec.hostname),
            has_disk=spec.has_disk,
            mem_mib=spec.limits.mem_mib,
            cpus=processors(spec.limits, slot),
        )

    def _take_disk(self, spec: SandboxSpec, undo: ExitStack) -> int:
        image = spec.directory / DISK
        undo.callback(image.unlink, missing_ok=True)
        return self._resources.disks.take(image, spec.limits.disk_mib, spec.limits.inodes)

    def _open_kept_disk(self, spec: SandboxSpec, undo: ExitStack) -> int:
        """The disk of an earlier sandbox. When the creation fails, it is closed again."""
        image = spec.directory / DISK

        def check() -> None:
            report = self._resources.disk_check(image)
            self._resources.tell("disk.checked", {"sandbox_id": spec.sandbox_id, "report": report})

        def close() -> None:
            try:
                kept.close_disk(image, DISK_TIMEOUT_S)
            except (CloisterError, OSError) as error:  # the error to be told is the creation's
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

    def _look_after(self, sandbox_id: str, sandbox: GvisorSandbox) -> None:
        self._resources.space.when_full(sandbox_id, sandbox.end_for_space)
        sandbox.bound_rates()
        self._watch.add(sandbox.gofer_pidfd, sandbox.end_half)

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> GvisorSandbox | None:
        """See :class:`Runtime`."""
        kernel = open_pidfd(state["pid"], state["start_ticks"]) if "pid" in state else None  # only a disk is kept of it
        if kernel is None:
            return None
        gofer = open_pidfd(*state["gofer"])
        if gofer is None:
            self._groups.tree.thaw(spec.sandbox_id)
            kill_pidfd(kernel)
            wait_pidfd(kernel, _END_TIMEOUT_S)
            os.close(kernel)
            return None
        with ExitStack() as undo:
            self._slots.hold(state["slot"])
            undo.callback(self._slots.free, state["slot"])
            undo.callback(self._resources.network.release, state["slot"])
            undo.callback(_end, kernel, gofer)
            undo.callback(self._groups.tree.thaw, spec.sandbox_id)
            netns = os.open(f"/proc/{state['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, netns)
            self._resources.network.attach(state["slot"], netns, spec.egress, SlotOwner(spec.sandbox_id, spec.team_id), has_own_stack=True)
            self._groups.tree.allow_swap(spec.sandbox_id, allowed=False)
            loop = state.get("loop")  # absent when its creation was cut off: then it is only ended
            disk_fd = None if loop is None else images.reopen_disk(spec.directory / DISK, loop)
            if disk_fd is not None:
                undo.callback(os.close, disk_fd)
            undo.callback(self._resources.volumes.let_go, spec.sandbox_id)
            for one in spec.volumes:
                self._resources.volumes.adopt(one.volume_id, spec.sandbox_id)
            trees = tuple(Path(tree) for tree in state.get("trees", ()) if Path(tree).is_dir())
            self._resources.tree_locks.lock(trees)
            undo.callback(self._resources.tree_locks.unlock, trees)
            started = Started(
                box=Box(Member(state["pid"], state["start_ticks"]), Member(*state["gofer"])),
                slot=state["slot"],
                kernel_fd=kernel,
                gofer_fd=gofer,
                netns_fd=netns,
                trees=trees,
                free_slot=partial(self._slots.free, state["slot"]),
                guest=spec.directory / _GUEST,
                manifest=Manifest(**state["manifest"]),
                client=self._client,
            )
            sandbox = GvisorSandbox(spec, started, self._resources, self._groups, disk_fd=disk_fd)
            if disk_fd is not None:
                self._resources.space.adopt(spec.sandbox_id, spec.directory / DISK, disk_fd)
                undo.callback(self._resources.space.forget, spec.sandbox_id)
                self._look_after(spec.sandbox_id, sandbox)
            if not Halt(started.box).is_to_freeze(spec.sandbox_id):  # a pause or a resume was cut off half way
                self._client.resume(spec.sandbox_id)
            self._groups.claim(spec.sandbox_id)  # last: after an error the node's sweep must end the group
            undo.pop_all()
        return sandbox

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """See :class:`Runtime`. The processes are in control groups, which the node ends; here it is files."""
        found = self._client.known()
        strangers = found - known()
        for sandbox_id in strangers:
            self._groups.tree.kill_all(sandbox_id)
            self._client.forget(sandbox_id)
        return [f"gvisor sandbox {sandbox_id}" for sandbox_id in sorted(strangers)]

    def survey(self) -> list[str]:
        """See :class:`Runtime`."""
        return [f"gvisor sandbox {sandbox_id}" for sandbox_id in sorted(self._client.known())]

    def stop(self) -> None:
        """See :class:`Runtime`."""
        self._is_stopping = True
        self._watch.close()
        for sandbox_id in self._client.known():
            self._groups.tree.kill_all(sandbox_id)
        if self._booting.acquire(timeout=_END_TIMEOUT_S):  # a boot under way fails now, and removes what it made
            self._booting.release()
        for sandbox_id in self._client.known():
            self._groups.remove(sandbox_id)
        self._client.stop()

    # ---- what needs a capability that it does not declare ----

    def probe(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`. There is nothing to try."""

    def close_copy(self, directory: Path) -> None:
        """See :class:`Runtime`."""
        image = directory / DISK
        self._resources.disk_check(image)  # always has something to repair: the superblock is that of a mounted disk
        kept.close_disk(image, DISK_TIMEOUT_S)

    def restore(
        self, spec: SandboxSpec, image: Path, on_started: Callable[[dict[str, Any]], None], disk_from: Path | None = None
    ) -> GvisorSandbox:
        """See :class:`Runtime`."""
        spec = Manifest.read(image).applied_to(spec, self._find().version, self._slots.a_first_id())
        with ExitStack() as undo:
            if disk_from is not None:
                with self._resources.space.claim(spec.directory, (disk_from / DISK).stat().st_blocks * 512):
                    kept.copy_disk(disk_from / DISK, spec.directory / DISK)
            disk = self._open_kept_disk(spec, undo)
            undo.callback(os.close, disk)
            self._resources.space.admit(spec.sandbox_id, spec.directory / DISK, disk)
            undo.callback(self._resources.space.forget, spec.sandbox_id)
            with open(os.devnull, "r+b") as silence:  # noqa: PTH123 - of both ends
                place = Place(image / "guest", image / "image")
                started = self._start(spec, disk, (silence.fileno(), silence.fileno()), undo, place)
            on_started(state_of(started))
            undo.pop_all()
        sandbox = GvisorSandbox(spec, started, self._resources, self._groups, disk_fd=disk)
        self._look_after(spec.sandbox_id, sandbox)
        return sandbox

    def run_step(self, step: StepSpec, log: Callable[[bytes], None], /) -> NoReturn:
        """See :class:`Runtime`."""
        raise NotImplementedError


def group_limits(limits: Limits) -> Limits:
    """The limits of a sandbox's control group: those of its programs, and what its kernel and gofer need.

    Each process inside has a process of the host, and each running thread a thread of it. gVisor keeps them for the next ones. RLIMIT_NPROC
    bounds each user inside (bundle.py), so two users of the sandbox who take all of theirs are refused more, and the sandbox lives.
    """
    return replace(limits, mem_mib=limits.mem_mib + _OWN_MEM_MIB, pids=4 * limits.pids + _OWN_PIDS)


def guest_binary() -> Path:
    """The first program of a sandbox, which the package's build made. Raises: IsolationError when it is not there."""
    path = Path(str(package.files("cloister"))) / "bin" / "guest" / "cloister-guest"
    if not path.exists():
        raise IsolationError("the program is not built", step="guest", path=str(path), hint="install the package again: pip install -e .")
    return path


def _show_guest(source: Path, target: Path) -> None:
    """Put the first program into a directory of the sandbox's own, as it is: a saved sandbox knows the file's size and time."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _open(member: Member) -> int:
    pidfd = open_pidfd(member.pid, member.start_ticks)
    if pidfd is None:
        raise RuntimeFailedError("a process of the sandbox ended at once")
    return pidfd


def _end(kernel: int, gofer: int) -> None:
    """Kill both processes, wait until they have ended, and close the descriptors."""
    for pidfd in (kernel, gofer):
        kill_pidfd(pidfd)
    for pidfd in (kernel, gofer):
        wait_pidfd(pidfd, _END_TIMEOUT_S)
        os.close(pidfd)
