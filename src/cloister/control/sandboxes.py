"""What a team can do with sandboxes: create, look at, prolong, kill. The rules are here; HTTP is not.

Invariant: every call is checked against the caller's team, and another team's sandbox is not told apart from none (I5). Whatever becomes
of a client, a sandbox that was begun is either a live one in the registry or killed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.registry import Registry
from cloister.control.templates import FoundTemplate, Templates
from cloister.errors import (
    CloisterError,
    ConflictError,
    InvalidRequestError,
    QuotaExceededError,
    SandboxNotFoundError,
    UnavailableError,
)
from cloister.ids import new_access_token
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics
from cloister.model.sandbox import EndReason, SandboxRequest, SandboxState
from cloister.store.base import Sandbox

__all__ = ["NewSandbox", "SandboxPolicy", "Sandboxes"]

_log = structlog.get_logger("cloister.control")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class NewSandbox:
    """What a client asks for."""

    template: str
    timeout_s: int
    metadata: dict[str, str] = field(default_factory=dict)
    envs: dict[str, str] = field(default_factory=dict, repr=False)
    secure: bool = True
    allow_internet: bool | None = None
    public_traffic: bool = True
    idempotency_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class SandboxPolicy:
    """The bounds that a server sets."""

    max_timeout_s: int = 86_400
    max_per_team: int = 1_000


class Sandboxes:
    """The use cases about sandboxes, on one node."""

    def __init__(self, node: NodeClient, registry: Registry, templates: Templates, policy: SandboxPolicy) -> None:
        self._node = node
        self._registry = registry
        self._templates = templates
        self._policy = policy
        self._creating: dict[str, asyncio.Task[Sandbox]] = {}
        self._by_idempotency_key: dict[tuple[str, str], str] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self.on_created: Callable[[Sandbox], None] = lambda _row: None
        self.before_kill: Callable[[str], Awaitable[None]] = _nothing
        """Awaited, shortly, before a sandbox is killed for its team."""

    def is_creating(self, sandbox_id: str) -> bool:
        """Whether a creation of this process is under way."""
        return sandbox_id in self._creating

    async def create(self, team_id: str, new: NewSandbox) -> Sandbox:
        """Create a sandbox; returns it when it runs. If the caller is cancelled, the sandbox is killed once it is there.

        Raises:
            InvalidRequestError, TemplateNotFoundError, QuotaExceededError, NoCapacityError, UnavailableError, InternalError.
        """
        self._check_timeout(new.timeout_s)
        template = await self._templates.find(team_id, new.template)
        sandbox_id = await self._node.reserve(template.runs)
        if new.idempotency_key is not None and (earlier := await self._find_earlier(team_id, new.idempotency_key)) is not None:
            return earlier
        # From here to the task nothing is awaited, so that creations at the same moment see each other.
        if self._registry.count(team_id) >= self._policy.max_per_team:
            raise QuotaExceededError(
                f"the team has {self._policy.max_per_team} live sandboxes, which is its limit", hint="kill some, or let them expire"
            )
        row = self._row(sandbox_id, team_id, template, new)
        self._registry.hold(row)
        task = asyncio.create_task(self._create(row, template, new))
        self._creating[row.sandbox_id] = task
        if new.idempotency_key is not None:
            self._by_idempotency_key[team_id, new.idempotency_key] = row.sandbox_id
        task.add_done_callback(lambda _: self._creating.pop(row.sandbox_id, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if new.idempotency_key is None:
                self._in_background(self._discard(task))
            raise

    async def _find_earlier(self, team_id: str, key: str) -> Sandbox | None:
        sandbox_id = self._by_idempotency_key.get((team_id, key))
        if sandbox_id is None:
            return None
        if (task := self._creating.get(sandbox_id)) is not None:
            return await asyncio.shield(task)
        if (row := self._registry.live(sandbox_id)) is None:
            del self._by_idempotency_key[team_id, key]
        return row

    def remember_idempotency_keys(self) -> None:
        """Take up the keys of sandboxes that lived before this process; to be called once the registry is loaded."""
        for row in self._registry.all_live():
            if row.idempotency_key is not None:
                self._by_idempotency_key[row.team_id, row.idempotency_key] = row.sandbox_id

    def _row(self, sandbox_id: str, team_id: str, template: FoundTemplate, new: NewSandbox) -> Sandbox:
        now = time.time()
        return Sandbox(
            sandbox_id=sandbox_id,
            team_id=team_id,
            template_id=template.template_id,
            template=template.name,
            state=SandboxState.CREATING,
            started_at=now,
            end_at=now + new.timeout_s,
            cpu_count=template.cpu_count,
            mem_mib=template.mem_mib,
            disk_mib=template.disk_mib,
            metadata=new.metadata,
            access_token=new_access_token() if new.secure else None,
            traffic_token=None if new.public_traffic else new_access_token(),
            allow_internet=new.allow_internet,
            idempotency_key=new.idempotency_key,
        )

    async def _create(self, row: Sandbox, template: FoundTemplate, new: NewSandbox) -> Sandbox:
        await self._registry.add(row)
        request = SandboxRequest(
            sandbox_id=row.sandbox_id,
            template=template.runs,
            end_at=row.end_at,
            envs=new.envs,
            access_token=row.access_token,
            allow_internet=row.allow_internet is not False,
            attributes={
                "team_id": row.team_id,
                "template_id": row.template_id,
                "template": row.template,
                "metadata": row.metadata,
                "access_token": row.access_token,
                "traffic_token": row.traffic_token,
                "allow_internet": row.allow_internet,
                "idempotency_key": row.idempotency_key,
            },
        )
        try:
            record = await self._node.create(request)
        except CloisterError as error:
            self._registry.end(row.sandbox_id, EndReason.FAILED, error.message)
            self._in_background(self._make_sure_dead(row.sandbox_id, EndReason.FAILED))
            raise
        if self._registry.live(row.sandbox_id) is None:
            await self._make_sure_dead(row.sandbox_id)
            self._registry.end(row.sandbox_id, EndReason.EXPIRED)
            raise ConflictError("the sandbox ended while it was being created")
        created = await self._registry.change(row.sandbox_id, state=SandboxState.RUNNING, started_at=record.started_at)
        _log.info("sandbox.created", sandbox_id=row.sandbox_id, team_id=row.team_id, template=row.template)
        self.on_created(created)
        self._templates.spawned(template)
        return created

    async def _discard(self, task: asyncio.Task[Sandbox]) -> None:
        try:
            row = await task
        except CloisterError:
            return
        _log.info("sandbox.discarded", sandbox_id=row.sandbox_id)
        self._registry.end(row.sandbox_id, EndReason.KILLED, "its client went away while it was being created")
        await self._make_sure_dead(row.sandbox_id)

    async def _make_sure_dead(self, sandbox_id: str, reason: EndReason = EndReason.KILLED) -> None:
        try:
            await self._node.kill(sandbox_id, reason)
        except UnavailableError as error:
            # The node is away; the reconciliation at its return kills what the registry holds for ended.
            _log.warning("sandbox.kill_deferred", sandbox_id=sandbox_id, error=str(error))

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _to_the_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await ``work``, which goes on when the caller is cancelled: node and registry must not be left of two minds."""
        return await asyncio.shield(self._in_background(work))

    def get(self, team_id: str, sandbox_id: str) -> Sandbox:
        """One running sandbox of the team.

        Raises:
            SandboxNotFoundError: none, ended (the message says why), or another team's (it does not say).
        """
        row = self._registry.live(sandbox_id)
        if row is not None and row.team_id == team_id and row.state is SandboxState.RUNNING:
            return row
        gone = self._registry.ended(sandbox_id)
        if gone is not None and gone.team_id == team_id:
            raise SandboxNotFoundError(f"sandbox {sandbox_id} not found: it {describe_end(gone)}")
        raise SandboxNotFoundError(f"sandbox {sandbox_id} not found")

    def list(self, team_id: str, accept: Callable[[Sandbox], bool] = lambda _: True) -> list[Sandbox]:
        """The team's running sandboxes that ``accept`` holds for, newest first, then by id."""
        now = time.time()
        found = [
            row
            for row in self._registry.all_live()
            if row.team_id == team_id and row.state is SandboxState.RUNNING and row.end_at > now and accept(row)
        ]
        return sorted(found, key=lambda row: (-row.started_at, row.sandbox_id))

    def count(self) -> int:
        """How many sandboxes live, of all teams."""
        return sum(1 for _ in self._registry.all_live())

    async def node_info(self) -> NodeInfo:
        """What the node says of itself. Raises: UnavailableError."""
        return await self._node.ping()

    async def kill(self, team_id: str, sandbox_id: str) -> None:
        """End a sandbox of the team; returns when it is gone, or, with the node away, when its end is sure to follow.

        Raises:
            SandboxNotFoundError: as for :meth:`get`.
        """
        self.get(team_id, sandbox_id)
        await self._to_the_end(self._end(sandbox_id, EndReason.KILLED, ""))

    async def _end(self, sandbox_id: str, reason: EndReason, message: str) -> None:
        await self.before_kill(sandbox_id)
        stored = self._registry.end(sandbox_id, reason, message)
        if stored is not None:
            await stored
        await self._make_sure_dead(sandbox_id, reason)

    async def set_timeout(self, team_id: str, sandbox_id: str, timeout_s: int, *, only_extend: bool = False) -> Sandbox:
        """Let the sandbox live ``timeout_s`` from now, and with ``only_extend`` not shorter than it would have. 0 or less kills it."""
        row = self.get(team_id, sandbox_id)
        if timeout_s <= 0 and not only_extend:
            await self._to_the_end(self._end(sandbox_id, EndReason.EXPIRED, "its timeout was set to zero"))
            return row
        self._check_timeout(timeout_s)
        end_at = time.time() + timeout_s
        if only_extend and end_at <= row.end_at:
            return row
        return await self._to_the_end(self._prolong(sandbox_id, end_at))

    async def _prolong(self, sandbox_id: str, end_at: float) -> Sandbox:
        await self._node.set_deadline(sandbox_id, end_at)
        if self._registry.live(sandbox_id) is None:
            raise SandboxNotFoundError(f"sandbox {sandbox_id} not found: it ended meanwhile")
        return await self._registry.change(sandbox_id, end_at=end_at)

    async def metrics(
        self, team_id: str, sandbox_id: str, start: float | None = None, end: float | None = None, newest: int | None = None
    ) -> tuple[Sandbox, SandboxMetrics]:
        """The sandbox and what it used from ``start`` to ``end`` (epoch seconds), or the ``newest`` so many samples of that."""
        row = self.get(team_id, sandbox_id)
        return row, await self._node.metrics(sandbox_id, start, end, newest)

    def ended(self, event: EndedSandbox) -> None:
        """Take note of the node's word that a sandbox ended."""
        self._registry.end(event.sandbox_id, event.reason, event.message)

    async def close(self) -> None:
        """Let creations under way come to their end and what was begun in the background finish."""
        await asyncio.gather(*self._creating.values(), *self._background, return_exceptions=True)

    def _check_timeout(self, timeout_s: int) -> None:
        if timeout_s > self._policy.max_timeout_s:
            raise InvalidRequestError(f"timeout {timeout_s} s is longer than this server allows, {self._policy.max_timeout_s} s")


async def _nothing(_sandbox_id: str) -> None:
    return


_ENDINGS = {
    EndReason.KILLED: "was killed",
    EndReason.EXPIRED: "reached its timeout",
    EndReason.CRASHED: "crashed",
    EndReason.FAILED: "could not be created",
    EndReason.STOPPED: "was stopped with the server",
}


def describe_end(row: Sandbox) -> str:
    """Why the sandbox ended, as the rest of a sentence that begins with it."""
    text = _ENDINGS[row.end_reason] if row.end_reason is not None else "ended"
    return f"{text} ({row.end_message})" if row.end_message else text
