"""Pauses and resumes of sandboxes: by their team, by traffic, and by the node at the end of a lifetime. Knows no HTTP.

Invariants: a sandbox has one change under way at most, and callers that want the same join it, with its choices. A change goes on when
its callers go away. A kill ends the sandbox whatever the change does. A change that fails leaves the sandbox as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.registry import Registry, absence
from cloister.control.sandboxes import LifecycleLog, Sandboxes, misplaced
from cloister.errors import (
    AgentSilentAtPauseError,
    AgentSilentError,
    CloisterError,
    ConflictError,
    InternalError,
    NodeUnreachableError,
    SandboxNotFoundError,
    StartInFlightError,
)
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.node import PausedSandbox
from cloister.model.sandbox import Sandbox, SandboxRecord, SandboxState
from cloister.model.team import TeamLimits
from cloister.nodewire.requests import PauseSandbox, ResumeSandbox, SandboxRef
from cloister.store.sharing import Reservation

__all__ = ["AgentHealth", "Pausing", "Resumption"]

_log = structlog.get_logger("cloister.control")
_SHORTEST_RUN_S = 15
"""Lifetime after a connect with the time-out 0 to a paused sandbox, which must not end it."""
_ATTEMPTS = 5
_REBOOT = "resume it with memory=false, which starts it anew on its disk"


class AgentHealth(Protocol):
    """Asks agents whether they answer."""

    async def answers(self, sandbox_id: str) -> bool:
        """Whether the agent of a running sandbox answers within a short time."""
        ...


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """A client's choices for a resume."""

    timeout_s: int
    memory: bool = True
    """False: start it anew on its disk."""
    auto_pause: bool | None = None
    """Whether it is paused again at the end of its lifetime, from now on; None: as before."""
    by_traffic: bool = False

    def lifecycle(self, row: Sandbox) -> Lifecycle | None:
        """The sandbox's lifecycle from now on; None: as before."""
        before = row.lifecycle
        if self.auto_pause is None or self.auto_pause == (before.on_timeout is not TimeoutAction.KILL):
            return None
        return replace(before, on_timeout=TimeoutAction.PAUSE if self.auto_pause else TimeoutAction.KILL)


@dataclass(frozen=True)
class _PauseWish:
    memory: bool
    needs_agent: bool = False
    asks_agent: bool = True
    cause: str = "api"


@dataclass
class _Change:
    """A pause or resume under way."""

    task: asyncio.Task[Sandbox]
    is_pause: bool
    memory: bool
    """Whether the sandbox's memory outlasts it."""


class Pausing:
    """The use cases about pauses, on one node."""

    def __init__(self, node: NodeClient, registry: Registry, sandboxes: Sandboxes, agents: AgentHealth, log: LifecycleLog) -> None:
        self._node = node
        self._registry = registry
        self._sandboxes = sandboxes
        self._agents = agents
        self._log = log
        self._changes: dict[str, _Change] = {}
        self.wakes = 0
        """Resumes that traffic began, since the start of this process."""
        self._background: set[asyncio.Task[Any]] = set()
        self._comparisons: set[asyncio.Task[Any]] = set()

    def is_changing(self, sandbox_id: str) -> bool:
        """Whether a pause or resume by this process is under way."""
        return sandbox_id in self._changes

    async def close(self) -> None:
        """Wait for changes under way."""
        await asyncio.gather(*(change.task for change in self._changes.values()), return_exceptions=True)
        for comparison in self._comparisons:
            comparison.cancel()
        await asyncio.gather(*self._background, *self._comparisons, return_exceptions=True)

    # ---- pause ----

    async def pause(self, team_id: str, sandbox_id: str, *, memory: bool = True, needs_agent: bool = False) -> None:
        """Pause a running sandbox of the team; returns when it can be resumed. Joins a pause under way.

        Without ``memory`` only its disk is kept. A pause without memory, or with ``needs_agent``, needs an agent that answers.

        Raises:
            SandboxNotFoundError: as :meth:`Sandboxes.get`.
            ConflictError: it is paused, or being resumed.
            QuotaExceededError, AgentSilentError, and the node's errors: it runs on.
        """
        await self._pause_or_join(team_id, sandbox_id, _PauseWish(memory, needs_agent))

    async def set_timeout(self, team_id: str, sandbox_id: str, timeout_s: int) -> None:
        """Let a running sandbox live ``timeout_s`` from now on. 0: do at once what its lifetime ends with.

        Raises: as :meth:`Sandboxes.set_timeout` and :meth:`pause`.
        """
        if timeout_s > 0:
            await self._sandboxes.set_timeout(team_id, sandbox_id, timeout_s)
            return
        action = self._sandboxes.running(team_id, sandbox_id).lifecycle.on_timeout
        if action is TimeoutAction.KILL:
            await self._sandboxes.expire(team_id, sandbox_id)
        else:
            await self._pause_or_join(team_id, sandbox_id, _at_timeout(action))

    async def _pause_or_join(self, team_id: str, sandbox_id: str, wish: _PauseWish) -> None:
        while True:
            row, change = self._sandboxes.get(team_id, sandbox_id), self._changes.get(sandbox_id)
            if change is not None and not change.is_pause and row.state is SandboxState.RUNNING:
                await asyncio.wait([change.task])  # it runs, and that is being stored
                continue
            if row.state is SandboxState.RESUMING:
                raise ConflictError(f"sandbox {sandbox_id} is being resumed", hint="pause it again when it runs")
            if change is None and row.state is SandboxState.PAUSED:
                raise ConflictError(f"sandbox {sandbox_id} is paused already")
            await asyncio.shield((change or self._begin_pause(row, wish)).task)
            return

    def _begin_pause(self, row: Sandbox, wish: _PauseWish) -> _Change:
        """Begin a pause, or join one of the node's: its deadline has passed, or the process that began it is dead."""
        if row.state is SandboxState.PAUSING and row.pause is not None:
            wish = _PauseWish(row.pause.kind.keeps_memory, asks_agent=False)
        elif row.state_at(time.time()) is SandboxState.PAUSING:
            wish = _at_timeout(row.lifecycle.on_timeout)
        return self._begin(row.sandbox_id, self._pause(row.sandbox_id, wish), is_pause=True, memory=wish.memory)

    async def _pause(self, sandbox_id: str, wish: _PauseWish) -> Sandbox:
        await self._sandboxes.standstills.wait(sandbox_id)
        is_silent = wish.asks_agent and not await self._agents.answers(sandbox_id)
        before = self._registry.live(sandbox_id)
        limits = None if before is None else await self._sandboxes.quotas.limits(before.team_id)
        row = self._registry.live(sandbox_id)
        if row is None or limits is None:
            raise absence(sandbox_id, "it ended meanwhile")
        if is_silent and (wish.needs_agent or not wish.memory):
            raise AgentSilentError(
                f"the agent of sandbox {sandbox_id} does not answer", hint="the sandbox runs on; pause it with its memory"
            )
        reservation = None
        if row.state is SandboxState.RUNNING:
            reservation = self._sandboxes.quotas.check_pause(row, limits)
            kind = PauseKind.FROZEN if wish.memory else PauseKind.FILES
            self._registry.set_pausing(sandbox_id, Pause(kind=kind, at=time.time(), agent_silent=is_silent))
        try:
            if reservation is not None:
                await self._registry.hold(sandbox_id, reservation)
            record = await self._node.pause(PauseSandbox(sandbox_id, wish.memory))
            if record.pause is None:
                raise InternalError(f"the node does not say how sandbox {sandbox_id} is paused")
            paused = await self._registry.set_paused(sandbox_id, replace(record.pause, agent_silent=is_silent))
        except SandboxNotFoundError as error:
            self._registry.cancel_pause(sandbox_id)
            raise absence(sandbox_id, "it ended meanwhile") from error
        except BaseException:
            self._registry.cancel_pause(sandbox_id)
            raise
        self._tell_paused(paused, wish.cause)
        return paused

    def paused_by_node(self, event: PausedSandbox) -> None:
        """The node reports that it has paused a sandbox, or that it keeps a paused one in another way."""
        row = self._registry.peek(event.sandbox_id)
        if row is None or row.state is SandboxState.CREATING:
            return
        if self.is_changing(event.sandbox_id):
            self._begin_comparison(event.sandbox_id)  # the answer to the call under way may be older or newer
            return
        was_silent = row.pause is not None and row.pause.agent_silent
        _keep(self._background, self._hear_pause(row, replace(event.pause, agent_silent=was_silent)))

    async def _hear_pause(self, row: Sandbox, pause: Pause) -> None:
        try:
            await self._note_paused(row, pause)
        except CloisterError as error:
            _log.warning("sandbox.pause_unstored", sandbox_id=row.sandbox_id, error=str(error))

    def _begin_comparison(self, sandbox_id: str) -> None:
        _keep(self._comparisons, self._compare(sandbox_id))

    async def _compare(self, sandbox_id: str) -> None:
        """Ask the node for the state of a sandbox when no change of it is under way: its row may be wrong."""
        try:
            while True:
                if (change := self._changes.get(sandbox_id)) is not None:
                    await asyncio.wait([change.task])
                    continue
                record = await self._node.get(SandboxRef(sandbox_id))
                if not self.is_changing(sandbox_id):
                    break
            if (row := self._registry.peek(sandbox_id)) is not None:
                await self.agree(row, record)
        except CloisterError as error:  # the node is away, and its return compares all; or the sandbox ended
            _log.info("sandbox.not_compared", sandbox_id=sandbox_id, error=str(error))

    async def agree(self, row: Sandbox, record: SandboxRecord) -> None:
        """Bring the row of a running or paused sandbox to the state that its node tells. No change of it may be under way.

        Raises: as :meth:`Registry.set_paused` and :meth:`Registry.set_resumed`.
        """
        pause = record.pause or Pause(kind=PauseKind.FROZEN, at=time.time())
        if row.pause is not None and row.pause.at == pause.at:
            pause = replace(pause, agent_silent=row.pause.agent_silent)
        if record.state in (SandboxState.RUNNING, SandboxState.PAUSING):
            if row.state is not SandboxState.RUNNING:
                await self._note_resumed(record)
            elif row.end_at != record.end_at:
                await self._registry.set_end(record.sandbox_id, record.end_at)
            if record.state is SandboxState.PAUSING and self._is_still(record, SandboxState.RUNNING):
                self._registry.set_pausing(record.sandbox_id, pause)
        elif record.state in (SandboxState.PAUSED, SandboxState.RESUMING):
            if row.state is not SandboxState.PAUSED or row.pause != pause:
                await self._note_paused(row, pause)
            if record.state is SandboxState.RESUMING and self._is_still(record, SandboxState.PAUSED):
                self._registry.set_resuming(record.sandbox_id)

    def _is_still(self, record: SandboxRecord, state: SandboxState) -> bool:
        """Whether the row has the state that was just stored, and no client has begun a change or a kill meanwhile."""
        row = self._registry.peek(record.sandbox_id)
        return row is not None and row.state is state and not self.is_changing(record.sandbox_id)

    async def _note_paused(self, row: Sandbox, pause: Pause) -> None:
        """Note what the node has done by itself, or for a process that is dead. Raises: as :meth:`Registry.set_paused`."""
        paused = await self._registry.set_paused(row.sandbox_id, pause)
        is_due = row.state is SandboxState.RUNNING and row.end_at <= time.time()
        self._tell_paused(paused, "timeout" if is_due else "server")

    async def _note_resumed(self, record: SandboxRecord) -> None:
        """Note that the node has resumed a sandbox for a process that is dead. Raises: as :meth:`Registry.set_resumed`."""
        resumed = await self._registry.set_resumed(record)
        _log.info("sandbox.resumed", sandbox_id=record.sandbox_id, team_id=resumed.team_id, cause="server")
        self._log.resumed(resumed, "server")

    def _tell_paused(self, row: Sandbox, cause: str) -> None:
        kind = None if row.pause is None else row.pause.kind.value
        _log.info("sandbox.paused", sandbox_id=row.sandbox_id, team_id=row.team_id, kind=kind, cause=cause)
        self._log.paused(row, cause)

    # ---- resume ----

    async def resume(self, team_id: str, sandbox_id: str, wish: Resumption) -> Sandbox:
        """Let a paused sandbox of the team run; returns it when its agent answers. Joins a resume under way.

        Raises:
            InvalidRequestError, SandboxNotFoundError.
            ConflictError: it runs, or a resume with another choice of memory is under way, or its agent did not answer at the pause.
            QuotaExceededError, and the node's errors: it stays paused.
        """
        self._sandboxes.check_timeout(wish.timeout_s)
        row = self._sandboxes.get(team_id, sandbox_id)
        if row.state_at(time.time()) is SandboxState.RUNNING and not self.is_changing(sandbox_id):
            raise ConflictError(f"sandbox {sandbox_id} is already running")
        return await self._bring_up(team_id, sandbox_id, wish)

    async def connect(self, team_id: str, sandbox_id: str, wish: Resumption) -> tuple[Sandbox, bool]:
        """Let a sandbox of the team run for ``timeout_s`` from now on, or longer if it has longer; resume it if it is paused.

        Returns it, and whether it was resumed. Raises: as :meth:`resume`.
        """
        self._sandboxes.check_timeout(wish.timeout_s)
        for _ in range(_ATTEMPTS):
            row = self._sandboxes.get(team_id, sandbox_id)
            began = row.started_at
            if row.state is SandboxState.RUNNING and row.end_at <= time.time() and wish.timeout_s and not self.is_changing(sandbox_id):
                with contextlib.suppress(ConflictError):  # its node is pausing it
                    return await self._sandboxes.prolong(sandbox_id, time.time() + wish.timeout_s), False
            if row.state_at(time.time()) is not SandboxState.RUNNING or self.is_changing(sandbox_id):
                row = await self._bring_up(team_id, sandbox_id, replace(wish, timeout_s=wish.timeout_s or _SHORTEST_RUN_S))
            is_resumed = row.started_at != began
            if is_resumed and row.end_at >= time.time() + wish.timeout_s - 1:
                return row, True
            with contextlib.suppress(ConflictError, SandboxNotFoundError):  # it was paused in between, or ended, as the next attempt says
                return await self._sandboxes.set_timeout(team_id, sandbox_id, wish.timeout_s, only_extend=True), is_resumed
        raise ConflictError(f"sandbox {sandbox_id} is paused and resumed by others at the same time", hint="try again")

    async def wake(self, sandbox_id: str) -> None:
        """Resume a paused sandbox for traffic to it, if its client chose that; returns when it runs. The caller has checked the tokens.

        Raises: as :meth:`resume`; SandboxNotFoundError also if traffic does not wake it.
        """
        await self._registry.catch_up()
        row = self._registry.live(sandbox_id)
        if row is None or row.lifecycle.wake_s is None:
            raise absence(sandbox_id, "it has ended" if row is None else "traffic does not wake it")
        await self._bring_up(row.team_id, sandbox_id, Resumption(timeout_s=row.lifecycle.wake_s, by_traffic=True))

    async def _bring_up(self, team_id: str, sandbox_id: str, wish: Resumption) -> Sandbox:
        """The sandbox when it runs: after a pause under way, and by a resume under way or by a new one."""
        while True:
            limits = await self._sandboxes.quotas.limits(team_id)
            await self._sandboxes.traffic.follow(team_id, limits)
            row, change = self._sandboxes.get(team_id, sandbox_id), self._changes.get(sandbox_id)
            if change is not None and change.is_pause:
                await asyncio.wait([change.task])
            elif change is not None or row.state in (SandboxState.PAUSED, SandboxState.RESUMING):
                change = change or self._begin_resume(row, wish, limits)
                if change.memory and not wish.memory:
                    raise StartInFlightError(f"sandbox {sandbox_id} is being resumed with its memory", hint="repeat this when it is paused")
                return await asyncio.shield(change.task)
            elif row.state_at(time.time()) is SandboxState.PAUSING:
                await asyncio.shield(self._begin_pause(row, _PauseWish(memory=True)).task)
            else:
                return row

    def _begin_resume(self, row: Sandbox, wish: Resumption, limits: TeamLimits) -> _Change:
        keeps_memory = row.pause is not None and row.pause.kind.keeps_memory
        reservation = None
        if row.state is SandboxState.PAUSED:
            if wish.by_traffic and not keeps_memory:
                raise absence(row.sandbox_id, "only its files are kept, and traffic does not wake it")
            if wish.memory and keeps_memory and row.pause is not None and row.pause.agent_silent:
                raise AgentSilentAtPauseError(f"the agent of sandbox {row.sandbox_id} did not answer when it was paused", hint=_REBOOT)
            reservation = self._sandboxes.quotas.check_resume(row, limits)
            self._registry.set_resuming(row.sandbox_id)
        memory = wish.memory and keeps_memory
        self.wakes += wish.by_traffic
        return self._begin(row.sandbox_id, self._resume(row, wish, reservation), is_pause=False, memory=memory)

    async def _resume(self, row: Sandbox, wish: Resumption, reservation: Reservation | None) -> Sandbox:
        sandbox_id = row.sandbox_id
        try:
            if reservation is not None:
                await self._registry.hold(sandbox_id, reservation)
            ask = ResumeSandbox(sandbox_id, time.time() + wish.timeout_s, wish.memory, wish.lifecycle(row))
            resumed = await self._registry.set_resumed(await self._node.resume(ask))
        except SandboxNotFoundError as error:
            self._registry.cancel_resume(sandbox_id)
            raise absence(sandbox_id, "it ended meanwhile") from error
        except CloisterError as error:
            self._registry.cancel_resume(sandbox_id)
            raise misplaced(error) from error
        except BaseException:
            self._registry.cancel_resume(sandbox_id)
            raise
        cause = "traffic" if wish.by_traffic else "api"
        _log.info("sandbox.resumed", sandbox_id=sandbox_id, team_id=row.team_id, cause=cause)
        self._log.resumed(resumed, cause)
        return resumed

    def _begin(self, sandbox_id: str, work: Coroutine[Any, Any, Sandbox], *, is_pause: bool, memory: bool) -> _Change:
        task = asyncio.create_task(work)
        change = self._changes[sandbox_id] = _Change(task, is_pause, memory)

        def end(_: asyncio.Task[Sandbox]) -> None:
            del self._changes[sandbox_id]
            if not task.cancelled() and (error := task.exception()) is not None:  # its callers may be gone
                _log.info("sandbox.not_changed", sandbox_id=sandbox_id, is_pause=is_pause, error=str(error))
                if isinstance(error, NodeUnreachableError):  # it may have made the change all the same
                    self._begin_comparison(sandbox_id)

        task.add_done_callback(end)
        return change


def _keep(tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, None]) -> None:
    """Begin ``work`` as one of ``tasks``, until it ends."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _at_timeout(action: TimeoutAction) -> _PauseWish:
    return _PauseWish(memory=action is not TimeoutAction.PAUSE_FILES, asks_agent=False, cause="timeout")
