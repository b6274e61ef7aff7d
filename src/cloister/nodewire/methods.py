"""The node protocol: every request that the API process may make of the supervisor, and every event that it is told.

This module is the only declaration of the protocol. A method's name is its name on the wire; its parameter is the request and its
result the answer. The server dispatches by :data:`METHODS`, the client makes its calls from it, and fakes implement the same
interfaces. To add a method, write its request (:mod:`cloister.nodewire.requests`), declare it here and implement it in the node.

Every method raises :class:`~cloister.errors.CloisterError`; its code crosses the wire.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast, get_type_hints

from cloister.errors import InvalidRequestError
from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.model.drain import Drained
from cloister.model.node import EndedSandbox, NodeInfo, PausedSandbox, SandboxMetrics, SandboxNote, TimedStep
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.model.template import AbsentTemplate, Template
from cloister.model.volume import VolumeUse
from cloister.nodewire.codec import Read, count_sockets, reader
from cloister.nodewire.requests import (
    AskEnds,
    AskMetrics,
    BuildRef,
    ChangeDrain,
    CopyVolume,
    DialVolume,
    DnsSockets,
    Kill,
    ListSandboxes,
    MakeVolume,
    NoteLookUps,
    PauseSandbox,
    ReportBuild,
    Reserve,
    ResumeSandbox,
    SandboxPage,
    SandboxRef,
    SetDeadline,
    SetNetwork,
    SetTeamTraffic,
    TakeSnapshot,
    TemplateRef,
    VolumeRef,
)
from cloister.protocol.dialled import Dialled

__all__ = [
    "EVENTS",
    "METHODS",
    "BuildMethods",
    "EventKind",
    "Method",
    "NodeEvent",
    "NodeMethods",
    "SandboxMethods",
    "Terms",
    "VolumeMethods",
    "calls_through",
    "event_of",
    "find_method",
    "message_of",
]

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a method may be called."""

    is_repeatable: bool = True
    """The client makes the call again after a reconnection: it has the same effect as one call."""
    waits: bool = True
    """The client waits for a supervisor that is restarting, rather than failing at once."""
    timeout_s: float | None = None
    """How long the client waits for the answer; None takes the time that the client has for all methods."""
    most_bytes: int | None = None
    """Bound of the request; None takes that of all messages (node/peers.py)."""
    has_long_answer: bool = False
    """The server has few such answers in memory at a time for one connection."""
    is_operators: bool = False
    """Only root may call it, and not the API process."""
    may_take_long: bool = False
    """The server does not count a long request of this method among those, as it would hold up the others for as long as it lasts."""


def terms(**values: Any) -> Callable[[_F], _F]:
    """Declare a method's :class:`Terms`."""

    def declare(function: _F) -> _F:
        function.__dict__["terms"] = Terms(**values)
        return function

    return declare


class SandboxMethods(Protocol):
    """Requests about sandboxes, and about the node itself."""

    @terms(waits=False)
    async def reserve(self, request: Reserve) -> str:
        """An id for the team's next creation of a template: of a sandbox made ahead (kept for 15 s), or a fresh one."""

    @terms(is_repeatable=False, may_take_long=True)
    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create a sandbox; answers when its agent serves. The id is the caller's. AlreadyExistsError if a sandbox has it."""

    async def creation_steps(self, request: SandboxRef) -> Sequence[TimedStep]:
        """The steps of a sandbox's creation, in their order; none if it is not one of the newest 256 of this supervisor."""

    async def kill(self, request: Kill) -> bool:
        """End a sandbox and release its resources; False if there is none."""

    async def set_deadline(self, request: SetDeadline) -> None:
        """Replace the time at which a running sandbox's lifetime ends."""

    @terms(timeout_s=60.0)
    async def set_network(self, request: SetNetwork) -> None:
        """Replace the egress policy and the network options of a running sandbox; answers when both are in force.

        Connections that the new policy does not allow are cut. SandboxNotFoundError; ConflictError: it is paused. Any other error means
        that the former policy is in force, or that the sandbox may connect to nothing.
        """

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """Bound the traffic of these teams, each of all its sandboxes together, and of no others; for live sandboxes too."""

    @terms(timeout_s=600.0)
    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """Pause a running sandbox; answers when it can be resumed. One that is paused already is the answer, as it is.

        SandboxNotFoundError; any other error means that it runs on.
        """

    @terms(timeout_s=600.0, may_take_long=True)
    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """Let a paused sandbox run; answers when its agent serves. One that runs already is the answer, as it is.

        SandboxNotFoundError; NoCapacityError; any other error means that it stays paused.
        """

    @terms(has_long_answer=True)
    async def list(self, request: ListSandboxes) -> SandboxPage:
        """The sandboxes that have not ended, paused ones too, page by page."""

    async def ended(self, request: AskEnds) -> Sequence[EndedSandbox]:
        """The known ends of these sandboxes; there is no entry for the others."""

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """One sandbox that has not ended, or SandboxNotFoundError."""

    @terms(has_long_answer=True)
    async def metrics(self, request: AskMetrics) -> SandboxMetrics:
        """Samples of the sandbox's use of its limits, oldest first."""

    async def dial(self, request: SandboxRef) -> Dialled:
        """A new, unconnected TCP socket that reaches the sandbox and nothing else, and the addresses to connect it to."""

    @terms(has_long_answer=True)
    async def templates(self) -> Sequence[Template]:
        """The templates that the node can run."""

    async def absent_template(self, request: TemplateRef) -> AbsentTemplate:
        """The state of a template that the node does not have."""

    async def dns_sockets(self) -> DnsSockets:
        """The sockets of the sandboxes' resolver address; the caller owns these copies."""

    @terms(waits=False)
    async def note_look_ups(self, request: NoteLookUps) -> None:
        """Show these names in the record of connections that begin later."""

    async def ping(self) -> NodeInfo:
        """The node's version and counters."""

    @terms(timeout_s=660.0, may_take_long=True, is_operators=True)
    async def change_drain(self, request: ChangeDrain) -> Drained:
        """Begin or end the drain of the node; with ``pause`` it answers when the sandboxes are paused, as far as they can be."""

    @terms(timeout_s=1800.0)
    async def snapshot(self, request: TakeSnapshot) -> Template:
        """Capture a running sandbox as a template; a template of this build id that exists already is the answer.

        InvalidRequestError: memory is asked for, and the runtime of the sandbox cannot capture it (:attr:`NodeInfo.saves_memory`).
        """


class BuildMethods(Protocol):
    """Requests about builds of clients' templates (docs/decisions/0502-templates-of-clients.md)."""

    @terms(most_bytes=4 << 20)
    async def start_build(self, request: BuildRequest) -> None:
        """Queue a build; a known build id changes nothing. NoCapacityError if the queue is full."""

    @terms(has_long_answer=True)
    async def report_build(self, request: ReportBuild) -> BuildReport:
        """A build's state and a window of its log, or NotFoundError."""

    async def cancel_build(self, request: BuildRef) -> bool:
        """End a build that has not ended, with status ``error``; False if there is none."""

    async def drop_build(self, request: BuildRef) -> None:
        """Forget a build and delete its template; live sandboxes of the template live on."""


class VolumeMethods(Protocol):
    """Requests about volumes (docs/decisions/1260-volumes.md)."""

    @terms(timeout_s=120.0)
    async def make_volume(self, request: MakeVolume) -> None:
        """Make an empty volume. One of that id that exists already stays as it is."""

    @terms(timeout_s=3600.0)
    async def copy_volume(self, request: CopyVolume) -> None:
        """Copy a volume as it is at one instant; its writers wait meanwhile. NotFoundError: there is none."""

    @terms(timeout_s=120.0)
    async def delete_volume(self, request: VolumeRef) -> bool:
        """Remove a volume with its data; False if there is none. ConflictError: a sandbox has it, perhaps a paused one."""

    @terms(has_long_answer=True)
    async def volumes(self) -> Sequence[VolumeUse]:
        """The volumes of the node, and what they take."""

    async def dial_volume(self, request: DialVolume) -> socket.socket:
        """A connection by which the content of a volume is served, as HTTP. NotFoundError; NoCapacityError: too many of them are."""


class NodeMethods(SandboxMethods, BuildMethods, VolumeMethods, Protocol):
    """The whole protocol."""


@dataclass(frozen=True)
class Method:
    """One row of :data:`METHODS`, derived from a declaration above."""

    name: str
    terms: Terms
    sockets: int
    """Descriptors that come with the answer."""
    _read_request: Read | None
    read_answer: Read

    def read_request(self, params: Any, size_bytes: int = 0) -> tuple[Any, ...]:
        """The arguments of the call that untrusted ``params``, which came in a message of this size, ask for.

        Raises:
            InvalidRequestError: they are not of the declared shape, or beyond a bound.
        """
        if self.terms.most_bytes is not None and size_bytes > self.terms.most_bytes:
            raise InvalidRequestError(f"{self.name}: the request is longer than {self.terms.most_bytes >> 20} MiB")
        if self._read_request is not None:
            return (self._read_request(params, self.name, iter(())),)
        if params != {}:
            raise InvalidRequestError(f"{self.name} has no parameters")
        return ()


def _method(name: str, function: Callable[..., Any]) -> Method:
    hints = get_type_hints(function, include_extras=True)
    answer = hints.pop("return")
    return Method(
        name=name,
        terms=getattr(function, "terms", Terms()),
        sockets=count_sockets(answer),
        _read_request=reader(hints["request"], strict=True) if hints else None,
        read_answer=reader(answer, strict=False),
    )


METHODS = {
    name: _method(name, function)
    for methods in (SandboxMethods, BuildMethods, VolumeMethods)
    for name, function in vars(methods).items()
    if inspect.iscoroutinefunction(function)
}
"""Every method, by its name on the wire."""


def find_method(body: dict[str, Any]) -> Method | None:
    """The method that an untrusted message names; None if there is no such method."""
    name = body.get("method")
    return METHODS.get(name) if isinstance(name, str) else None


def calls_through(exchange: Callable[[Method, Any], Awaitable[Any]]) -> NodeMethods:
    """A client whose every method makes its request by ``exchange``, which gets None for a method without parameters."""

    def call(method: Method, request: Any = None) -> Awaitable[Any]:
        return exchange(method, request)

    return cast("NodeMethods", SimpleNamespace(**{name: partial(call, method) for name, method in METHODS.items()}))


NodeEvent = EndedSandbox | PausedSandbox | SandboxNote | EndedBuild


@dataclass(frozen=True)
class EventKind:
    """How the supervisor tells its peers of an event."""

    name: str
    read: Read
    most_kept: int = 0
    """Events that the supervisor keeps for the next peer while there is none. A peer that connects asks for the others by itself."""


EVENTS: dict[type, EventKind] = {
    EndedSandbox: EventKind("sandbox.ended", reader(EndedSandbox, strict=False)),
    PausedSandbox: EventKind("sandbox.paused", reader(PausedSandbox, strict=False)),
    SandboxNote: EventKind("sandbox.noted", reader(SandboxNote, strict=False), most_kept=1000),
    EndedBuild: EventKind("build.ended", reader(EndedBuild, strict=False)),
}
"""Every event, by its type: a sandbox ended or was paused, a sandbox met a limit or the network refused it something, a build ended."""


def message_of(event: NodeEvent) -> dict[str, Any]:
    """The message that tells of an event."""
    return {"event": EVENTS[type(event)].name, "data": event}


def event_of(body: dict[str, Any]) -> NodeEvent | None:
    """The event in a message of the supervisor; None if this version does not know it."""
    for kind in EVENTS.values():
        if kind.name == body["event"]:
            return cast("NodeEvent", kind.read(body["data"], kind.name, iter(())))
    return None
