"""A team's operations on sandboxes: create, list, prolong, kill. Pauses are in pausing.py. This module has the rules and knows no HTTP.

Invariants: every call is checked against the caller's team, and another team's sandbox looks like none (I5). When a client goes away, a
sandbox whose creation has begun is either live in the registry or killed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import structlog

from cloister.cluster.base import Fleet, Need
from cloister.control.quotas import Quotas
from cloister.control.registry import Registry, absence
from cloister.control.standstills import Standstills
from cloister.control.team_traffic import TeamTraffics
from cloister.control.templates import FoundTemplate, Templates
from cloister.errors import (
    AlreadyExistsError,
    CloisterError,
    ConflictError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    NoCapacityError,
    StartFailedError,
    UnavailableError,
    from_code,
)
from cloister.ids import new_access_token, new_sandbox_id
from cloister.model.client_data import ClientData
from cloister.model.lifecycle import Lifecycle
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, TimedStep
from cloister.model.sandbox import EndReason, Sandbox, SandboxRequest, SandboxState
from cloister.model.secret import Secret
from cloister.model.team import TeamUse
from cloister.model.volume import VolumeMount
from cloister.nodewire.requests import AskMetrics, Kill, SandboxRef, SetDeadline
from cloister.store.sharing import Reservation

__all__ = ["RUNTIME_KEY", "LifecycleLog", "NewSandbox", "Sandboxes", "misplaced", "name_end"]

_log = structlog.get_logger("cloister.control")
_T = TypeVar("_T")
RUNTIME_KEY = "cloister.runtime"
"""The key of a sandbox's metadata that names its runtime."""
_SHORTEST_WAKE_S = 300
_LOOK_AGAIN_S = 0.02
"""At a creation by another process."""
_SEEN = frozenset({SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING})
"""States of sandboxes that clients see."""


@dataclass(frozen=True, kw_only=True)
class NewSandbox:
    """A client's request for a sandbox."""

    template: str
    timeout_s: int
    metadata: dict[str, str] = field(default_factory=dict)
    envs: dict[str, str] = field(default_factory=dict, repr=False)
    secure: bool = True
    egress: EgressPolicy | None = None
    public_traffic: bool = True
    network: NetworkOptions = field(default_factory=NetworkOptions)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    """Its ``wake_s`` is brought within the server's bounds."""
    idempotency_key: str | None = None
    volumes: tuple[VolumeMount, ...] = ()
    node_id: str | None = None
    """The only node that has its volumes; None: any."""

    @property
    def runtime(self) -> str | None:
        """The runtime that the client asks for, by a key of the metadata, which every SDK can set. Copies of the sandbox have it too."""
        return self.metadata.get(RUNTIME_KEY)


class LifecycleLog(Protocol):
    """Hears of the sandboxes that are created, paused, resumed and killed for their teams."""

    def created(self, row: Sandbox) -> None:
        """A sandbox runs."""
        ...

    def paused(self, row: Sandbox, cause: str) -> None:
        """A sandbox is paused, or kept in another way; ``cause`` is "api", "timeout" or "server"."""
        ...

    def resumed(self, row: Sandbox, cause: str) -> None:
        """A sandbox runs again; ``cause`` is "api", "traffic" or "server"."""
        ...

    async def last_look(self, sandbox_id: str) -> None:
        """A sandbox is about to be killed. The kill waits for this, so it takes a bounded time."""
        ...


class Sandboxes:
    """The use cases about sandboxes."""

    def __init__(
        self, fleet: Fleet, registry: Registry, templates: Templates, quotas: Quotas, log: LifecycleLog, traffic: TeamTraffics
    ) -> None:
        self.fleet = fleet
        self._node = fleet.calls
        self._registry = registry
        self._templates = templates
        self.quotas = quotas
        self.traffic = traffic
        self._creating: dict[str, asyncio.Task[Sandbox]] = {}
        self._killing: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._log = log
        self.standstills = Standstills()
        """The captures under way. A kill or a pause that a client asks for waits for them."""

    def is_creating(self, sandbox_id: str) -> bool:
        """Whether a creation of this process is under way."""
        return sandbox_id in self._creating

    async def create(self, team_id: str, new: NewSandbox) -> Sandbox:
        """Create a sandbox; returns it when it runs. If the caller is cancelled, the sandbox is killed once it is created.

        Raises:
            InvalidRequestError, TemplateNotFoundError, QuotaExceededError, NoCapacityError, UnavailableError, InternalError.
        """
        self.check_timeout(new.timeout_s)
        template = await self._templates.find(team_id, new.template)
        is_plain = new.runtime is None  # what is made ahead has the runtime of requests that name none
        sandbox_id = await self.fleet.reserve(_need(template, new), team_id) if is_plain else new_sandbox_id()
        return await self._create_of(team_id, sandbox_id, template, new)

    async def create_copy(self, team_id: str, template: FoundTemplate, new: NewSandbox) -> Sandbox:
        """As :meth:`create`, of a template that no name leads to. Counts for its team before the first wait: copies get places in order."""
        return await self._create_of(team_id, new_sandbox_id(), template, new)

    async def _create_of(self, team_id: str, sandbox_id: str, template: FoundTemplate, new: NewSandbox) -> Sandbox:
        limits = await self.quotas.limits(team_id)
        try:
            await self.traffic.follow(team_id, limits)
        except CloisterError as error:
            raise misplaced(error) from error
        if new.idempotency_key is not None and (earlier := await self._find_earlier(team_id, new.idempotency_key)) is not None:
            return earlier
        # No await from here to the task: creations at the same moment must count each other.
        try:
            row = self._row(sandbox_id, team_id, template, new)
        except NoCapacityError as error:
            raise misplaced(error) from error
        reservation = self.quotas.check_creation(row, limits)
        self._registry.reserve(row)
        task = asyncio.create_task(self._create(row, template, new, reservation))
        self._creating[row.sandbox_id] = task
        task.add_done_callback(lambda _: self._creating.pop(row.sandbox_id, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if new.idempotency_key is None:
                self._in_background(self._discard(task))
            raise

    async def _find_earlier(self, team_id: str, key: str) -> Sandbox | None:
        while (row := self._registry.find_by_key(team_id, key)) is not None:
            if (task := self._creating.get(row.sandbox_id)) is not None:
                return await asyncio.shield(task)
            if row.state is not SandboxState.CREATING or not self._registry.is_shared:
                return row
            await asyncio.sleep(_LOOK_AGAIN_S)  # another process creates it
        return None

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
            access_token=Secret(new_access_token()) if new.secure else None,
            traffic_token=None if new.public_traffic else Secret(new_access_token()),
            egress=new.egress,
            network=new.network,
            idempotency_key=new.idempotency_key,
            lifecycle=self._within_bounds(new.lifecycle),
            node_id=self.fleet.place(sandbox_id, _need(template, new)),
            build_id=None if template.owner_id is None else template.runs,
            volumes=new.volumes,
        )

    def _within_bounds(self, lifecycle: Lifecycle) -> Lifecycle:
        if lifecycle.wake_s is None:
            return lifecycle
        return replace(lifecycle, wake_s=min(max(lifecycle.wake_s, _SHORTEST_WAKE_S), self.quotas.policy.max_timeout_s))

    async def _create(self, row: Sandbox, template: FoundTemplate, new: NewSandbox, reservation: Reservation) -> Sandbox:
        try:
            await self._registry.add(row, within=reservation)
        except AlreadyExistsError:
            if new.idempotency_key is None or not self._registry.is_shared:
                raise
            await self._registry.catch_up()
            if (earlier := await self._find_earlier(row.team_id, new.idempotency_key)) is None:
                raise
            return earlier
        request = SandboxRequest(
            sandbox_id=row.sandbox_id,
            template=template.runs,
            end_at=row.end_at,
            team_id=row.team_id,
            envs=new.envs,
            access_token=row.access_token,
            egress=row.effective_egress,
            lifecycle=row.lifecycle,
            runtime=new.runtime,
            volumes=new.volumes,
            client=ClientData(
                template_id=row.template_id,
                template=row.template,
                metadata=row.metadata,
                traffic_token=row.traffic_token,
                egress=row.egress,
                network=row.network,
                idempotency_key=row.idempotency_key,
            ),
        )
        try:
            record = await self._node.create(request)
        except CloisterError as error:
            self._abandon(row, error)
            raise misplaced(error) from error
        live = self._registry.live(row.sandbox_id)
        if live is None:
            await self._make_sure_dead(row.sandbox_id)
            self._registry.end(row.sandbox_id, EndReason.EXPIRED)
            raise ConflictError("the sandbox ended while it was being created")
        try:
            created = await self._registry.set_running(record, live.node_id or self.fleet.place(row.sandbox_id, _need(template, new)))
        except CloisterError as error:  # such as a full disk; the client does not learn the id, so it could not end the sandbox
            self._abandon(row, error)
            raise
        _log.info("sandbox.created", sandbox_id=row.sandbox_id, team_id=row.team_id, template=row.template)
        self._log.created(created)
        self._templates.spawned(template)
        return created

    def _abandon(self, row: Sandbox, error: CloisterError) -> None:
        self._registry.end(row.sandbox_id, EndReason.FAILED, error.message)
        self._in_background(self._make_sure_dead(row.sandbox_id, EndReason.FAILED))

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
            await self._node.kill(Kill(sandbox_id, reason))
        except UnavailableError as error:
            # The node is away. When it returns, the reconciliation kills sandboxes that the registry knows as ended.
            _log.warning("sandbox.kill_deferred", sandbox_id=sandbox_id, error=str(error))

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _to_the_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await ``work``, which goes on when the caller is cancelled: node and registry must not disagree."""
        return await asyncio.shield(self._in_background(work))

    async def catch_up(self) -> None:
        """Return when the changes of other api processes before this call are known. Raises: StoreUnreachableError."""
        await self._registry.catch_up()

    def get(self, team_id: str, sandbox_id: str) -> Sandbox:
        """One sandbox of the team that runs, is paused, or changes between the two.

        Raises:
            SandboxNotFoundError: none, ended (the message says why), or another team's (it does not say).
        """
        row = self._registry.live(sandbox_id)
        if row is not None and row.team_id == team_id and row.state in _SEEN:
            return row
        gone = self._registry.ended(sandbox_id)
        if gone is not None and gone.team_id == team_id:
            raise absence(sandbox_id, f"it {describe_end(gone)}")
        raise absence(sandbox_id)

    def running(self, team_id: str, sandbox_id: str) -> Sandbox:
        """One running sandbox of the team.

        Raises:
            ConflictError: it is being paused.
            SandboxNotFoundError: as for :meth:`get`; or it is paused or being resumed.
        """
        row = self.get(team_id, sandbox_id)
        match row.state_at(time.time()):
            case SandboxState.RUNNING:
                return row
            case SandboxState.PAUSING:
                raise ConflictError(f"sandbox {sandbox_id} is being paused", hint="resume it by a connect, then repeat this")
            case state:
                raise absence(sandbox_id, f"it is {'paused' if state is SandboxState.PAUSED else 'being resumed'}")

    def list(self, team_id: str, accept: Callable[[Sandbox], bool] = lambda _: True) -> list[Sandbox]:
        """The team's sandboxes that ``accept`` holds for, paused ones too, latest start first, then by id."""
        now = time.time()
        found = [row for row in self._registry.all_live() if row.team_id == team_id and row.state_at(now) in _SEEN and accept(row)]
        return sorted(found, key=lambda row: (-row.started_at, row.sandbox_id))

    def all_live(self) -> Iterator[Sandbox]:
        """The sandboxes of all teams that have not ended, for the operator."""
        return self._registry.all_live()

    def count_ends(self) -> Counter[str]:
        """The ends of sandboxes since this process started, by reason."""
        return self._registry.ends

    async def creation_steps(self, sandbox_id: str) -> Sequence[TimedStep]:
        """How the node created a sandbox, for the operator; empty if it is not known any more. Raises: UnavailableError."""
        return await self._node.creation_steps(SandboxRef(sandbox_id))

    async def node_info(self) -> NodeInfo:
        """The node's version and counts. Raises: UnavailableError."""
        return await self._node.ping()

    async def kill(self, team_id: str, sandbox_id: str) -> None:
        """End a sandbox of the team; returns when it is gone. While the node is away it returns once the end is stored.

        Raises:
            SandboxNotFoundError: as for :meth:`get`.
        """
        key = (team_id, sandbox_id)
        if (killing := self._killing.get(key)) is None:
            self.get(team_id, sandbox_id)
            killing = self._killing[key] = self._in_background(self._end(sandbox_id, EndReason.KILLED, ""))
            killing.add_done_callback(lambda _: self._killing.pop(key, None))
        await asyncio.shield(killing)

    async def expire(self, team_id: str, sandbox_id: str) -> None:
        """End a running sandbox of the team as its deadline does. Raises: as :meth:`running`."""
        self.running(team_id, sandbox_id)
        await self._to_the_end(self._end(sandbox_id, EndReason.EXPIRED, "its timeout was set to zero"))

    async def _end(self, sandbox_id: str, reason: EndReason, message: str) -> None:
        await self.standstills.wait(sandbox_id)
        await self._log.last_look(sandbox_id)
        stored = self._registry.end(sandbox_id, reason, message)
        if stored is not None:
            await stored
        await self._make_sure_dead(sandbox_id, reason)

    async def set_timeout(self, team_id: str, sandbox_id: str, timeout_s: int, *, only_extend: bool = False) -> Sandbox:
        """Let a running sandbox live ``timeout_s`` from now on. With ``only_extend`` its life never gets shorter.

        Raises:
            InvalidRequestError; and as :meth:`running`.
        """
        self.check_timeout(timeout_s)
        row = self.running(team_id, sandbox_id)
        end_at = time.time() + timeout_s
        if only_extend and end_at <= row.end_at:
            return row
        return await self.prolong(sandbox_id, end_at)

    async def prolong(self, sandbox_id: str, end_at: float) -> Sandbox:
        """Set the end of a sandbox that runs on its node; its deadline may have passed. The caller has checked the team.

        Raises: ConflictError, SandboxNotFoundError: it does not run any more; and the node's errors.
        """
        return await self._to_the_end(self._prolong(sandbox_id, end_at))

    async def _prolong(self, sandbox_id: str, end_at: float) -> Sandbox:
        await self._node.set_deadline(SetDeadline(sandbox_id, end_at))
        row = self._registry.peek(sandbox_id)  # whatever its old deadline: the node has just accepted the new one
        if row is None:
            raise absence(sandbox_id, "it ended meanwhile")
        if row.state is not SandboxState.RUNNING:
            raise ConflictError(f"sandbox {sandbox_id} was paused meanwhile", hint="resume it by a connect")
        return await self._registry.set_end(sandbox_id, end_at)

    async def note_checkpoint(self, sandbox_id: str, snapshot_id: str) -> None:
        """Store the event that a snapshot of a sandbox was made. The caller has checked the team."""
        await self._registry.note_checkpoint(sandbox_id, snapshot_id)

    async def metrics(
        self, team_id: str, sandbox_id: str, start: float | None = None, end: float | None = None, newest: int | None = None
    ) -> tuple[Sandbox, SandboxMetrics]:
        """The sandbox, and its usage from ``start`` to ``end`` (epoch seconds), or only the ``newest`` samples of that."""
        row = self.get(team_id, sandbox_id)
        return row, await self._node.metrics(AskMetrics(sandbox_id, start, end, newest))

    async def kill_team(self, team_id: str) -> int:
        """End all sandboxes of the team, those too that are being created, paused or resumed; returns how many.

        One that cannot be ended keeps no other alive. Raises: the first of their errors, once all were tried.
        """
        rows = [row for row in self._registry.all_live() if row.team_id == team_id]
        ends = [self._to_the_end(self._end(row.sandbox_id, EndReason.KILLED, "")) for row in rows]
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return len(rows)

    def use_of(self, team_id: str) -> TeamUse:
        """What the team's sandboxes use of its limits."""
        return self._registry.use_of(team_id)

    def ended(self, event: EndedSandbox) -> None:
        """The node reports that a sandbox has ended."""
        self._registry.end(event.sandbox_id, event.reason, event.message, event.at)

    async def close(self) -> None:
        """Wait for creations under way and for background work."""
        await asyncio.gather(*self._creating.values(), *self._background, return_exceptions=True)

    def check_timeout(self, timeout_s: int) -> None:
        """Raises: InvalidRequestError: no sandbox may live for so long."""
        if timeout_s > self.quotas.policy.max_timeout_s:
            raise InvalidRequestError(f"timeout {timeout_s} s is longer than this server allows, {self.quotas.policy.max_timeout_s} s")


def _need(template: FoundTemplate, new: NewSandbox) -> Need:
    return Need(
        template=template.runs,
        cpu_count=template.cpu_count,
        mem_mib=template.mem_mib,
        disk_mib=template.disk_mib,
        node_id=template.node_id or new.node_id,
        has_volumes=bool(new.volumes),
    )


def misplaced(error: CloisterError) -> CloisterError:
    """The ``error`` of a node that could not start a sandbox, in the published words if the node is at fault. Clients match them."""
    if isinstance(error, NoCapacityError | UnavailableError | DeadlineError | StartFailedError | InternalError):
        return from_code(error.code, f"Failed to place sandbox: {error.message}", error.hint)
    return error


_ENDINGS = {
    EndReason.KILLED: "was killed",
    EndReason.EXPIRED: "reached its timeout",
    EndReason.CRASHED: "crashed",
    EndReason.FAILED: "could not be created",
    EndReason.STOPPED: "was stopped with the server",
    EndReason.NO_SPACE: "was stopped because the server ran out of disk space",
    EndReason.KERNEL_MEMORY: "was stopped because it took the kernel's memory",
    EndReason.LOST: "was lost with its node",
    EndReason.PAUSED_TOO_LONG: "was paused for longer than the server keeps a paused sandbox",
}


def describe_end(row: Sandbox) -> str:
    """Why the sandbox ended, as the rest of a sentence that begins with the sandbox. For its team."""
    text = name_end(row)
    return f"{text} ({row.end_message})" if row.end_message else text


def name_end(row: Sandbox) -> str:
    """The same without details, which may be private to the team. For every client that knows the sandbox's id."""
    return _ENDINGS[row.end_reason] if row.end_reason is not None else "ended"
