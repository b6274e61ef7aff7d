"""Fake sandboxes that can be paused, without a process, and the steps and the runtime that make and adopt them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from cloister.errors import DeadlineError, InvalidRequestError, RuntimeFailedError
from cloister.linux.process import start_ticks
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.creation.steps import Created
from cloister.node.journal import Journal
from cloister.node.origin import Origin, read_origin, write_origin
from cloister.nodewire.requests import PauseSandbox, ResumeSandbox
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.spec import SandboxSpec
from framework.node_parts import NodeParts

__all__ = ["PausableHost", "PausableNode", "PausableSandbox", "PausableSteps", "ended", "node_in", "reached", "until", "within"]

TEMPLATE = Template(template_id="t", name="t", build_id="b", layers=(), authors=())
FOUND = SimpleNamespace(build_id="b", zone_key="z", zone_team="", limits=Limits(), template=TEMPLATE)
"""The template of every fake sandbox."""
_FREEZE_TIMEOUT_S = 10.0
TEAM = "0123456789abcdef0123"
_T = TypeVar("_T")


@dataclass
class PausableSandbox:
    """A sandbox that is a pipe. As with control groups of version 1, it does not die while it is frozen."""

    name: str
    capabilities: RuntimeCapabilities = field(default_factory=lambda: RuntimeCapabilities(freeze=True, keep_disk=True, checkpoint=True))
    cold: tuple[str, ...] = ()
    starting: int | None = None
    why_ended: str = ""
    network_slot: int = 1
    trees: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    is_frozen: bool = False
    is_killed: bool = False
    is_kept: bool = False
    is_released: bool = False
    keep_faults: list[Exception] = field(default_factory=list)
    save_faults: list[Exception] = field(default_factory=list)
    kill_faults: list[Exception] = field(default_factory=list)
    start_faults: list[Exception] = field(default_factory=list)
    keeping: threading.Event = field(default_factory=threading.Event)
    """Its disk is being closed."""
    may_keep: threading.Event = field(default_factory=threading.Event)
    """Closing the disk waits for it."""
    freeze_faults: list[Exception] = field(default_factory=list)
    thaw_faults: list[Exception] = field(default_factory=list)
    may_freeze: threading.Event = field(default_factory=threading.Event)
    """A freeze waits for it."""
    freezing: threading.Event = field(default_factory=threading.Event)
    """A freeze has begun."""
    calls: list[str] = field(default_factory=list)
    envs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pidfd, self._writer = os.pipe()
        self.may_freeze.set()
        self.may_keep.set()
        self._changed = threading.Condition()

    def state(self) -> dict[str, Any]:
        """By which it is adopted."""
        return {"trees": ["/layer"]} if self.is_kept else {"name": self.name, "trees": ["/layer"], "pid": 1 << 30, "start_ticks": 1}

    def dial(self) -> Dialled:
        """A socket that goes nowhere."""
        return on_loopback(socket.socket())

    def usage(self) -> SandboxUsage:
        """The same at any time; notes that it was asked."""
        self.calls.append("usage")
        return SandboxUsage(
            cpu_used_s=1.0,
            mem_used_bytes=1,
            mem_cache_bytes=1,
            mem_limit_bytes=512,
            oom_kills=0,
            pids=1,
            pids_refused=0,
            disk_used_bytes=1,
            disk_total_bytes=1000,
            inodes_free=1,
        )

    def cpu_used_s(self) -> float:
        """That of :meth:`usage`."""
        return 1.0

    def freeze(self) -> None:
        """Freeze, when the test lets it; or raise the next fault."""
        self.freezing.set()
        if not self.may_freeze.wait(_FREEZE_TIMEOUT_S):
            raise DeadlineError("not frozen in time")
        self.calls.append("freeze")
        if self.freeze_faults:
            raise self.freeze_faults.pop(0)
        self.is_frozen = True

    def thaw(self) -> None:
        """Thaw; or raise the next fault."""
        self.calls.append("thaw")
        if self.thaw_faults:
            raise self.thaw_faults.pop(0)
        with self._changed:
            self.is_frozen = False
            self._changed.notify_all()

    def kill(self) -> None:
        """Thaw and end. Waits until it is not frozen any more, if another thread freezes it meanwhile."""
        if self.is_killed:
            return
        if self.kill_faults:
            raise self.kill_faults.pop(0)
        self.calls.append("kill")
        self.thaw()
        self.may_freeze.set()
        with self._changed:
            assert self._changed.wait_for(lambda: not self.is_frozen, _FREEZE_TIMEOUT_S), "frozen for ever"
        self.is_killed = True
        os.close(self._writer)

    def die(self) -> None:
        """Its processes end by themselves."""
        self.is_killed = True
        os.close(self._writer)

    def has_ended(self) -> bool:
        """Whether its processes are gone."""
        return self.is_killed

    def keep_disk(self) -> None:
        """Close the disk, when the test lets it."""
        assert self.is_killed
        assert not self.is_released
        self.calls.append("keep_disk")
        self.is_kept = True
        self.keeping.set()
        assert self.may_keep.wait(_FREEZE_TIMEOUT_S)
        if self.keep_faults:
            raise self.keep_faults.pop(0)

    def checkpoint(self, directory: Path) -> int:
        """Save the memory; or raise the next fault."""
        assert self.is_frozen
        self.calls.append("checkpoint")
        if self.save_faults:
            raise self.save_faults.pop(0)
        directory.mkdir()
        (directory / "pages").write_text("memory")
        return 6

    def take_start(self) -> None:
        """The outcome of the start command."""
        self.starting = None
        if self.start_faults:
            raise self.start_faults.pop(0)

    def release(self) -> None:
        """Give everything back."""
        assert self.is_killed
        assert not self.is_released
        self.is_released = True
        os.close(self.pidfd)


class PausableSteps:
    """Makes fake sandboxes, with a journal entry each; ``made`` has them by id."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.made: dict[str, PausableSandbox] = {}
        self.start_timeout_s = 5.0
        self.create_faults: list[Exception] = []
        self.restored: list[str | None] = []
        """The memory that each start on a kept disk went on with."""
        self.may_create = threading.Event()
        self.may_create.set()
        self.has_started = threading.Event()
        """A start on a kept disk has its first process."""
        self.on_made: Callable[[PausableSandbox], None] = lambda _: None
        """Changes a sandbox that was started on a kept disk."""

    def choose_runtime(self, _request: SandboxRequest, _template: object) -> str:
        """See :class:`CreationSteps`."""
        return "fake"

    def resolve(self, _template: str, _team_id: str | None) -> Any:
        """See :class:`CreationSteps`."""
        return FOUND

    def make(self, request: SandboxRequest, _template: object) -> Created:
        """See :class:`CreationSteps`."""
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="t",
            team_id=request.team_id,
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
            lifecycle=request.lifecycle,
        )
        sandbox = self.made[request.sandbox_id] = PausableSandbox(request.sandbox_id)
        self._journal.write(record, sandbox.state())
        write_origin(self._journal.directory_of(request.sandbox_id), Origin(TEMPLATE, request.envs))
        return Created(record=record, sandbox=cast("Any", sandbox))

    def has_room(self, _template: object, _runtime: str) -> bool:
        """See :class:`CreationSteps`."""
        return True

    def origin(self, record: SandboxRecord) -> tuple[SandboxRequest, Any]:
        """See :class:`CreationSteps`."""
        envs = read_origin(self._journal.directory_of(record.sandbox_id)).envs
        return SandboxRequest(sandbox_id=record.sandbox_id, template="t", end_at=record.end_at, envs=envs), FOUND

    def start_again(
        self,
        record: SandboxRecord,
        origin: tuple[SandboxRequest, object],
        on_started: Callable[[dict[str, Any]], None],
        image: Path | None = None,
    ) -> PausableSandbox:
        """See :class:`CreationSteps`. Its process is a real one, so that it can be killed."""
        self.restored.append(None if image is None else (image / "pages").read_text())
        process = subprocess.Popen(["sleep", "60"])
        try:
            sandbox = PausableSandbox(record.sandbox_id, envs=origin[0].envs)
            on_started({**sandbox.state(), "pid": process.pid, "start_ticks": start_ticks(process.pid)})
            self.has_started.set()
            while not self.may_create.wait(0.002):
                if process.poll() is not None:
                    raise RuntimeFailedError("its agent did not start")
            if self.create_faults:
                raise self.create_faults.pop(0)
        finally:
            process.kill()
            process.wait()
        self.on_made(sandbox)
        self.made[record.sandbox_id] = sandbox
        return sandbox


@dataclass
class PausableHost:
    """A host and its only runtime, which adopts the sandboxes that ``alive`` has."""

    alive: dict[str, PausableSandbox] = field(default_factory=dict)
    disks: set[str] = field(default_factory=set)
    """The sandboxes of which there is a disk."""
    capabilities: RuntimeCapabilities = field(default_factory=lambda: RuntimeCapabilities(freeze=True, keep_disk=True, checkpoint=True))

    @property
    def runtimes(self) -> PausableHost:
        """All that it has."""
        return self

    @property
    def network(self) -> PausableHost:
        """The same."""
        return self

    def find(self, name: str | None) -> PausableHost:
        """The runtime, which is this object. Raises: InvalidRequestError."""
        if name not in ("fake", None):
            raise InvalidRequestError(f"no runtime {name}")
        return self

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> PausableSandbox | None:
        """See :class:`Runtime`."""
        assert state["name"] == spec.sandbox_id
        return self.alive.get(spec.sandbox_id)

    def find_disk(self, spec: SandboxSpec) -> bool:
        """See :class:`Runtime`."""
        return spec.sandbox_id in self.disks

    def refresh(self) -> None:
        """The host's networks are as they were."""

    def sweep(self, _known: Callable[[], set[str]]) -> list[str]:
        """Nothing is left over."""
        return []

    def let_go(self, _idle_s: float) -> list[str]:
        """Nothing is held."""
        return []


class PausableNode:
    """A node of fake sandboxes."""

    def __init__(self, directory: Path, **options: Any) -> None:
        def make_steps(journal: Journal) -> PausableSteps:
            self.steps = PausableSteps(journal)
            return self.steps

        self.parts = NodeParts(directory, make_steps, **options)
        self.handlers = self.parts.handlers
        self.live = self.handlers.live
        self.events = self.parts.events

    async def create(self, name: str = "one", lifetime_s: float = 60, **changes: Any) -> PausableSandbox:
        """A sandbox that runs."""
        await self.handlers.create(SandboxRequest(sandbox_id=name, template="t", team_id=TEAM, end_at=time.time() + lifetime_s, **changes))
        return self.steps.made[name]

    async def pause(self, name: str = "one", *, memory: bool = True) -> SandboxRecord:
        """Pause a sandbox."""
        return await self.handlers.pause(PauseSandbox(name, memory=memory))

    async def resume(self, name: str = "one", lifetime_s: float = 60, **changes: Any) -> SandboxRecord:
        """Resume a sandbox."""
        return await self.handlers.resume(ResumeSandbox(name, end_at=time.time() + lifetime_s, **changes))

    def journaled(self, name: str = "one") -> SandboxState:
        """The state in the journal."""
        (entry,) = [entry for entry in self.parts.journal.entries().entries if entry.record.sandbox_id == name]
        return entry.record.state


@asynccontextmanager
async def node_in(directory: Path, **options: Any) -> AsyncIterator[PausableNode]:
    """A node that is stopped, with its sandboxes, at the end."""
    node = PausableNode(directory, **options)
    try:
        yield node
    finally:
        node.steps.may_create.set()
        for sandbox in node.steps.made.values():
            sandbox.may_freeze.set()
            sandbox.may_keep.set()
        await asyncio.wait_for(node.parts.supervisor.stop(keep_sandboxes=False), 10)


async def within(work: Awaitable[_T]) -> _T:
    """The result of what may not hang."""
    return await asyncio.wait_for(work, 10)


async def reached(node: PausableNode, state: SandboxState, name: str = "one") -> None:
    """Wait until a sandbox is in that state."""
    await until(lambda: node.live.find_any(name).record.state is state)


async def ended(node: PausableNode) -> None:
    """Wait until an end was reported."""
    await until(lambda: node.events.ended)


async def until(look: Callable[[], object]) -> None:
    """Wait until ``look`` gives something true."""
    async with asyncio.timeout(10):
        while not look():  # noqa: ASYNC110 - the fakes only record
            await asyncio.sleep(0.002)
