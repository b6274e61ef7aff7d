"""A second runtime, for tests: a sandbox is a ``sleep`` in a control group of its own, which is no isolation at all.

It takes what all runtimes share from the node (a block of ids, control groups, a run directory) and declares no capability. Beside each
process it keeps a note in the run directory, so that its sweep has leftovers of its own to find.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cloister.errors import ConflictError, NoCapacityError
from cloister.linux.process import kill_pidfd, open_pidfd, start_ticks, wait_pidfd
from cloister.model.network import EgressPolicy
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.volume import VolumeMount
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.blocks import SLOTS_PER_BLOCK, slot_number
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec, StepSpec

__all__ = ["FakeKind", "FakeRuntime", "FakeSandbox"]

_NAME = "fake"
_CAPABILITIES = RuntimeCapabilities()
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Held:
    """The parts of the node and of its runtime that a sandbox takes."""

    groups: RuntimeGroups
    note: Path
    free_slot: Callable[[], None]


class FakeSandbox:
    """See :class:`RuntimeSandbox`."""

    capabilities = _CAPABILITIES
    cold: tuple[str, ...] = ("agent",)
    starting: int | None = None
    why_ended = ""

    def __init__(self, spec: SandboxSpec, state: dict[str, Any], pidfd: int, held: _Held) -> None:
        self.limits: Limits = spec.limits
        self.trees: tuple[Path, ...] = ()
        self.pidfd = pidfd
        self._sandbox_id = spec.sandbox_id
        self._state = state
        self._held = held
        self._is_released = False

    @property
    def network_slot(self) -> int:
        """See :class:`RuntimeSandbox`."""
        return slot_number(self._state["block"], self._state["slot"])

    def state(self) -> dict[str, Any]:
        """See :class:`RuntimeSandbox`."""
        return self._state

    def dial(self) -> Dialled:
        """See :class:`RuntimeSandbox`. The network is the host's."""
        return on_loopback(socket.socket(socket.AF_INET6))

    def take_start(self) -> None:
        """See :class:`RuntimeSandbox`."""

    def usage(self) -> SandboxUsage:
        """See :class:`RuntimeSandbox`. It has no disk."""
        used = self._held.groups.tree.usage(self._sandbox_id)
        return SandboxUsage(**vars(used), disk_used_bytes=0, disk_total_bytes=0, inodes_free=0)

    def cpu_used_s(self) -> float:
        """See :class:`RuntimeSandbox`."""
        return self._held.groups.tree.cpu_used_s(self._sandbox_id)

    def has_ended(self) -> bool:
        """See :class:`RuntimeSandbox`."""
        return self._is_released or wait_pidfd(self.pidfd, 0)

    def kill(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if not self._is_released:
            kill_pidfd(self.pidfd)
            assert wait_pidfd(self.pidfd, _END_TIMEOUT_S)

    def release(self) -> None:
        """See :class:`RuntimeSandbox`."""
        if not self._is_released:
            self._is_released = True
            self._held.groups.remove(self._sandbox_id)
            self._held.note.unlink(missing_ok=True)
            self._held.free_slot()
            with contextlib.suppress(ChildProcessError):  # an earlier supervisor's child is not this one's to reap
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            os.close(self.pidfd)

    # ---- what needs a capability that it does not declare ----

    def rewrite_init(self, document: bytes) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def set_egress(self, policy: EgressPolicy) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def join_team(self, team_id: str) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def mount_volumes(self, volumes: tuple[VolumeMount, ...], *, has_run: bool) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def freeze(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def frozen(self) -> AbstractContextManager[None]:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def thaw(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def page_out(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def swapped_bytes(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def keep_disk(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def write_disk(self) -> None:
        """It is in memory."""

    def copy_disk(self, directory: Path) -> None:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def checkpoint(self, directory: Path, *, is_durable: bool = True) -> int:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def open_disk(self, userns_fd: int) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def disk_room(self) -> NoReturn:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError

    def host_port(self, host: str, port: int) -> AbstractContextManager[None]:
        """See :class:`RuntimeSandbox`."""
        raise NotImplementedError


class FakeRuntime:
    """See :class:`Runtime`. All its sandboxes are in one block."""

    name = _NAME
    capabilities = _CAPABILITIES

    def __init__(self, resources: NodeResources) -> None:
        self._blocks = resources.blocks
        self._groups = resources.groups.of(self.name)
        self._notes = resources.run_dir / _NAME
        self._notes.mkdir(mode=0o700, exist_ok=True)
        self._block: int | None = None
        self._slots: set[int] = set()

    def prepare(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`. Nothing speeds it up."""

    def has_room(self, sharing_key: str) -> bool:
        """See :class:`Runtime`."""
        del sharing_key
        return len(self._slots) < SLOTS_PER_BLOCK

    def let_go(self, idle_s: float) -> list[str]:
        """See :class:`Runtime`."""
        del idle_s
        return []

    def stop_preparing(self) -> None:
        """See :class:`Runtime`."""

    def prepared(self) -> dict[str, int]:
        """See :class:`Runtime`."""
        return {}

    def create(self, spec: SandboxSpec, on_started: Callable[[dict[str, Any]], None]) -> FakeSandbox:
        """See :class:`Runtime`."""
        with ExitStack() as undo:
            block, slot = self._take_slot()
            undo.callback(self._free_slot, slot)
            undo.callback(self._groups.remove, spec.sandbox_id)
            self._groups.create(spec.sandbox_id, spec.limits)
            process = subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
            undo.callback(process.wait)
            undo.callback(process.kill)
            self._groups.tree.attach(spec.sandbox_id, process.pid)
            state: dict[str, Any] = {"pid": process.pid, "start_ticks": start_ticks(process.pid), "block": block, "slot": slot, "trees": []}
            note = self._notes / spec.sandbox_id
            undo.callback(note.unlink, missing_ok=True)
            note.write_text(json.dumps(state))
            on_started(state)
            pidfd = os.pidfd_open(process.pid)
            undo.pop_all()
        process.returncode = 0  # reaped by the pidfd: without this, Popen warns that the process still runs
        return self._sandbox(spec, state, pidfd)

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> FakeSandbox | None:
        """See :class:`Runtime`."""
        pidfd = open_pidfd(state["pid"], state["start_ticks"])
        if pidfd is None:
            return None
        try:
            self._blocks.hold(self.name, state["block"])
        except ConflictError:
            kill_pidfd(pidfd)
            os.close(pidfd)
            raise
        self._block = state["block"]
        self._slots.add(state["slot"])
        self._groups.claim(spec.sandbox_id)
        return self._sandbox(spec, state, pidfd)

    def probe(self, spec: SandboxSpec) -> None:
        """See :class:`Runtime`. There is nothing to try."""

    def close_copy(self, directory: Path) -> None:
        """See :class:`Runtime`."""
        raise NotImplementedError

    def restore(
        self, spec: SandboxSpec, image: Path, on_started: Callable[[dict[str, Any]], None], disk_from: Path | None = None
    ) -> FakeSandbox:
        """See :class:`Runtime`."""
        raise NotImplementedError

    def find_disk(self, spec: SandboxSpec) -> bool:
        """See :class:`Runtime`."""
        raise NotImplementedError

    def run_step(self, step: StepSpec, log: Callable[[bytes], None], /) -> int:
        """See :class:`Runtime`."""
        raise NotImplementedError

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """See :class:`Runtime`. What it made has a note."""
        notes = list(self._notes.iterdir())
        return [self._sweep_one(note) for note in notes if note.name not in known()]

    def survey(self) -> list[str]:
        """See :class:`Runtime`."""
        return [f"fake sandbox {note.name}" for note in sorted(self._notes.iterdir())]

    def stop(self) -> None:
        """See :class:`Runtime`."""
        self.sweep(set)
        shutil.rmtree(self._notes)

    def _take_slot(self) -> tuple[int, int]:
        if self._block is None:
            self._block = self._blocks.take(self.name)
        slot = next((number for number in range(1, SLOTS_PER_BLOCK + 1) if number not in self._slots), None)
        if self._block is None or slot is None:
            raise NoCapacityError("there is no room for another fake sandbox")
        self._slots.add(slot)
        return self._block, slot

    def _free_slot(self, slot: int) -> None:
        self._slots.discard(slot)
        if not self._slots and self._block is not None:
            self._blocks.give(self._block)
            self._block = None

    def _sandbox(self, spec: SandboxSpec, state: dict[str, Any], pidfd: int) -> FakeSandbox:
        held = _Held(self._groups, self._notes / spec.sandbox_id, lambda: self._free_slot(state["slot"]))
        return FakeSandbox(spec, state, pidfd, held)

    def _sweep_one(self, note: Path) -> str:
        state = json.loads(note.read_text())
        pidfd = open_pidfd(state["pid"], state["start_ticks"])
        if pidfd is not None:
            kill_pidfd(pidfd)
            wait_pidfd(pidfd, _END_TIMEOUT_S)
            os.close(pidfd)
        self._groups.remove(note.name)
        note.unlink()
        return f"fake sandbox {note.name}"


@dataclass(frozen=True)
class FakeKind:
    """See :class:`RuntimeKind`."""

    name = _NAME

    def open(self, resources: NodeResources) -> FakeRuntime:
        """See :class:`RuntimeKind`."""
        return FakeRuntime(resources)

    def try_out(self, run_root: Path) -> None:
        """See :class:`RuntimeKind`."""

    def checks(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`."""
        return {}

    def options(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`."""
        return {}

    def helper_groups(self, run_dir: Path) -> set[str]:
        """See :class:`RuntimeKind`. It has no helpers."""
        del run_dir
        return set()
