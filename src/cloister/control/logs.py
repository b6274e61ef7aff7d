"""The structured log of each sandbox: entries of the server, of the node, and of the sandbox's agent.

Owns the times at which agents are asked, and the bound of each source. Events are fetched over the sandbox's own network, like any
request to the agent, so a sandbox holds no socket of the host. They are not trusted (agentclient/reports.py). An agent is asked after
traffic to it, shortly before its sandbox's deadline, before a kill, when a client reads the log, and every ten minutes. A sandbox never
has two such requests at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from cloister.agentclient.reports import Report, read_page
from cloister.control.registry import Registry, absence
from cloister.errors import CloisterError, UnavailableError
from cloister.model.log import LogEntry
from cloister.model.node import SandboxNote
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.model.secret import reveal
from cloister.protocol.agent import AGENT_PORT
from cloister.protocol.languages import NATIVE_LANGUAGES
from cloister.store.logs import LogStore

__all__ = ["AgentReports", "SandboxLogs"]

_log = structlog.get_logger("cloister.control")
_ROUND_S = 2.0
_IDLE_S = 600.0
_AT_ONCE = 16
_READ_WAIT_S = 1.5
_KILL_WAIT_S = 0.2
_MAX_PAGES = 4
_EXPECTED = (EndReason.KILLED, EndReason.EXPIRED, EndReason.STOPPED, EndReason.PAUSED_TOO_LONG)
"""Ends that are logged at level info; all others are errors."""
_RUN_ENDED = "execution.ended"
_LANGUAGES = frozenset(language.name for language in NATIVE_LANGUAGES)
_OUTCOMES = frozenset({"ok", "error", "interrupted", "output_limit", "kernel_died"})
_BURST = 500.0
_PER_S = 100.0
"""Bound of the entries that a sandbox may cause: a burst, and a rate per second."""


class AgentReports(Protocol):
    """Fetches events from agents. Bounded in time and bytes."""

    async def fetch(self, sandbox_id: str, port: int, access_token: str | None, agent_id: str, since: int) -> object:
        """The JSON of the events from number ``since`` on, by one of the agent's ports; all events if the agent is not ``agent_id``.

        Raises: UnavailableError.
        """
        ...


@dataclass
class _Watch:
    last_ms: int
    agent_id: str
    following: int
    """Number of the next event to ask for."""
    looked_at: float
    port: int = AGENT_PORT
    """The port that was used last: a connection to it is open."""
    is_dirty: bool = True
    failures: int = 0
    allowance: float = _BURST
    looking: asyncio.Task[None] | None = None


class SandboxLogs:
    """The logs of all sandboxes of this server."""

    def __init__(self, store: LogStore, registry: Registry, agents: AgentReports) -> None:
        self._store = store
        self._registry = registry
        self._agents = agents
        self._watches: dict[str, _Watch] = {}
        self.runs = Counter[tuple[str, str]]()
        """Runs of code that agents reported since this process started, by language and outcome."""
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- entries of the server and the node ----

    def created(self, row: Sandbox) -> None:
        """Log that a sandbox was created."""
        self._watches[row.sandbox_id] = _Watch(int(row.started_at * 1000) - 1, "", 0, row.started_at)
        fields = {
            "template": row.template,
            "cpu_count": row.cpu_count,
            "mem_mib": row.mem_mib,
            "disk_mib": row.disk_mib,
            "timeout_s": round(row.end_at - row.started_at),
            "internet": not row.effective_egress.is_closed,
        }
        self._say(row.sandbox_id, row.started_at, "info", "api", "sandbox.created", fields)

    def paused(self, row: Sandbox, cause: str) -> None:
        """Log that a sandbox is paused, and how it is kept."""
        if row.pause is not None:
            why = {"why_not_deeper": row.pause.why_not_deeper} if row.pause.why_not_deeper else {}
            fields = {"kept": row.pause.kind.value, "cause": cause, "agent_silent": row.pause.agent_silent, **why}
            self._say(row.sandbox_id, time.time(), "info", "api", "sandbox.paused", fields)

    def resumed(self, row: Sandbox, cause: str) -> None:
        """Log that a sandbox runs again."""
        fields = {"cause": cause, "timeout_s": round(row.end_at - row.started_at)}
        self._say(row.sandbox_id, row.started_at, "info", "api", "sandbox.resumed", fields)
        if (watch := self._watches.get(row.sandbox_id)) is not None:
            watch.is_dirty, watch.failures = True, 0

    def ended(self, sandbox_id: str) -> None:
        """Log that a sandbox ended, with the registry's reason."""
        row = self._registry.ended(sandbox_id)
        if row is not None and row.end_reason is not None:
            level = "info" if row.end_reason in _EXPECTED else "error"
            fields = {"reason": row.end_reason.value, **({"message": row.end_message} if row.end_message else {})}
            self._say(sandbox_id, row.ended_at or time.time(), level, "api", "sandbox.ended", fields)
        self._watches.pop(sandbox_id, None)

    def noted(self, note: SandboxNote) -> None:
        """Log an event that the node reported."""
        if self._registry.peek(note.sandbox_id) is not None or self._registry.ended(note.sandbox_id) is not None:
            self._say(note.sandbox_id, note.at, note.level, "node", note.event, note.fields)

    def used(self, sandbox_id: str, port: int) -> None:
        """Note traffic to the sandbox's agent: it may have new events."""
        watch = self._watches.get(sandbox_id)
        if watch is not None:
            watch.is_dirty, watch.port = True, port

    def _say(self, sandbox_id: str, at: float, level: str, logger: str, event: str, fields: Mapping[str, object]) -> None:
        texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()}
        watch = self._watches.get(sandbox_id)
        at_ms = int(at * 1000)
        if watch is not None:  # without a watch no other code writes to this log now
            at_ms = watch.last_ms = max(at_ms, watch.last_ms + 1)
        self._store.append(sandbox_id, [LogEntry(at_ms=at_ms, level=level, logger=logger, event=event, fields=texts)])

    # ---- reading ----

    async def read(self, team_id: str, sandbox_id: str, *, ask_agent: bool = True) -> list[LogEntry]:
        """The log of the team's sandbox, live or ended and still kept, oldest first.

        ``ask_agent``: with the latest entries of its agent. Raises: SandboxNotFoundError.
        """
        row = self._registry.peek(sandbox_id) or self._registry.ended(sandbox_id)
        if row is None or row.team_id != team_id:
            raise absence(sandbox_id)
        if ask_agent and row.state is SandboxState.RUNNING:
            await self._look_for(sandbox_id, _READ_WAIT_S)
        entries = await self._store.read(sandbox_id)
        return sorted(entries, key=lambda entry: entry.at_ms)

    async def last_look(self, sandbox_id: str) -> None:
        """Fetch the latest events before a sandbox is killed; waits only briefly."""
        watch = self._watches.get(sandbox_id)
        if watch is not None and watch.is_dirty and not watch.failures:
            await self._look_for(sandbox_id, _KILL_WAIT_S)

    async def _look_for(self, sandbox_id: str, wait_s: float) -> None:
        row = self._registry.live(sandbox_id)
        if row is not None and row.state is SandboxState.RUNNING:
            await asyncio.wait({await self._begin_look(row)}, timeout=wait_s)

    # ---- asking agents ----

    async def run(self) -> None:
        """Ask all agents in turn, for ever."""
        while True:
            await asyncio.sleep(_ROUND_S)
            now = time.time()
            for row in [row for row in self._registry.all_live() if row.state is SandboxState.RUNNING]:
                watch = self._watches.get(row.sandbox_id)
                if watch is None or _is_due(watch, row, now):
                    self._in_background(self._look_in_turn(row))

    async def close(self) -> None:
        """Stop asking."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def prune(self, retention_s: float) -> None:
        """Delete the logs of sandboxes that ended longer ago."""
        await self._store.prune(written_before=time.time() - retention_s, keep=lambda key: self._registry.peek(key) is not None)

    async def _look_in_turn(self, row: Sandbox) -> None:
        watch = await self._watch(row)
        if watch.looking is None:
            async with self._room:
                if self._registry.live(row.sandbox_id) is not None:
                    await asyncio.wait({await self._begin_look(row)})

    async def _watch(self, row: Sandbox) -> _Watch:
        """The sandbox's watch; after a restart of this process it continues where the log ends."""
        if (watch := self._watches.get(row.sandbox_id)) is not None:
            return watch
        entries = await self._store.read(row.sandbox_id)
        if (watch := self._watches.get(row.sandbox_id)) is not None:
            return watch
        watch = _Watch(entries[-1].at_ms if entries else int(row.started_at * 1000), "", 0, row.started_at)
        for entry in entries:
            if entry.logger == "agent" and "agent_id" in entry.fields:
                watch.agent_id, watch.following = entry.fields["agent_id"], int(entry.fields["sequence"]) + 1
                watch.looked_at = entry.at_ms / 1000
        if self._registry.peek(row.sandbox_id) is not None:
            self._watches[row.sandbox_id] = watch
        return watch

    async def _begin_look(self, row: Sandbox) -> asyncio.Task[None]:
        watch = await self._watch(row)
        if watch.looking is None:
            watch.looking = self._in_background(self._look(row, watch))
        return watch.looking

    async def _look(self, row: Sandbox, watch: _Watch) -> None:
        began = time.time()
        watch.is_dirty = False
        watch.allowance = min(_BURST, watch.allowance + (began - watch.looked_at) * _PER_S)
        try:
            for _ in range(_MAX_PAGES):
                data = await self._agents.fetch(row.sandbox_id, watch.port, reveal(row.access_token), watch.agent_id, watch.following)
                if not self._take(row.sandbox_id, watch, data):
                    break
            watch.failures = 0
        except CloisterError as error:
            watch.failures += 1
            _log.debug("sandbox.not_asked", sandbox_id=row.sandbox_id, error=str(error))
        except Exception:  # noqa: BLE001 - task border: a sandbox's answer must not keep the others from being asked
            watch.failures += 1
            _log.exception("sandbox.not_asked", sandbox_id=row.sandbox_id)
        finally:
            watch.looked_at = began
            watch.looking = None

    def _take(self, sandbox_id: str, watch: _Watch, data: object) -> bool:
        """Append a page to the log; True: more events are waiting."""
        page = read_page(data, earliest=watch.looked_at, latest=time.time())
        if page is None:
            raise UnavailableError("the agent's answer is malformed")
        expected = watch.following if page.agent_id == watch.agent_id else 0
        reports = [report for report in page.reports if report.sequence >= expected]
        if not reports:
            return False
        heard = reports[: int(watch.allowance)]
        watch.allowance -= len(heard)
        watch.agent_id, watch.following = page.agent_id, reports[-1].sequence + 1
        self._count_runs(heard)
        entries = [self._entry(watch, report, page.agent_id) for report in heard]
        missed = watch.following - expected - len(heard)
        if missed:
            dropped = Report(watch.following - 1, time.time(), "warn", "events.dropped", {"count": str(missed)})
            entries.append(self._entry(watch, dropped, page.agent_id))
        self._store.append(sandbox_id, entries)
        return len(heard) == len(reports)

    def _count_runs(self, reports: Iterable[Report]) -> None:
        """A sandbox can report runs that never were, but no words of its own."""
        for report in reports:
            if report.event == _RUN_ENDED:
                language, outcome = report.fields.get("language"), report.fields.get("outcome")
                self.runs[language if language in _LANGUAGES else "other", outcome if outcome in _OUTCOMES else "other"] += 1

    @staticmethod
    def _entry(watch: _Watch, report: Report, agent_id: str) -> LogEntry:
        watch.last_ms = max(int(report.at * 1000), watch.last_ms + 1)
        fields = {**report.fields, "agent_id": agent_id, "sequence": str(report.sequence)}
        return LogEntry(at_ms=watch.last_ms, level=report.level, logger="agent", event=report.event, fields=fields)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_due(watch: _Watch, row: Sandbox, now: float) -> bool:
    """Whether to ask now: after traffic, shortly before the deadline, or after a long time. Failures make the intervals longer."""
    if watch.looking is not None:
        return False
    age_s = now - watch.looked_at
    if watch.failures:
        return age_s > min(_IDLE_S, _ROUND_S * 2.0 ** min(watch.failures, 10))
    return watch.is_dirty or row.end_at - now < 2 * _ROUND_S or age_s > _IDLE_S
