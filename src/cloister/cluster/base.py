"""What the control plane and the data plane need of a node, wherever it runs.

The one seam between the unprivileged side and whatever owns the sandboxes: :mod:`cloister.cluster.local` speaks to the supervisor of
this machine; a cluster puts another implementation in its place. No policy here.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest
from cloister.model.template import Template

__all__ = ["NodeClient", "NodeListener", "ResolverSockets"]


@dataclass(frozen=True)
class ResolverSockets:
    """The sandboxes' resolver address: two sockets that the receiver owns, and the upstream resolvers."""

    udp: socket.socket
    tcp: socket.socket
    upstreams: tuple[str, ...]


@dataclass(frozen=True)
class NodeListener:
    """Whom a client tells: ``connected`` after each (re)connection, before waiting calls go on; the others for each event.

    ``build_ended`` is not called for builds that ended while there was no connection: ``connected`` has to ask for their reports.
    """

    connected: Callable[[NodeClient], Awaitable[None]]
    ended: Callable[[EndedSandbox], None]
    noted: Callable[[SandboxNote], None] = lambda _note: None
    build_ended: Callable[[EndedBuild], None] = lambda _ended: None


class NodeClient(Protocol):
    """One node. Every call waits a little for a node that is restarting, then raises NodeUnreachableError."""

    async def reserve(self, template: str) -> str:
        """An id for the next creation of ``template``, best one of a sandbox that is up already. Never fails: ids need no node."""

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create a sandbox; returns when its agent serves. Survives a restart of the node: afterwards it is either there or not."""

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """End a sandbox; False if there is none."""

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """Replace the time (epoch seconds) at which the sandbox is killed."""

    async def list(self) -> Sequence[SandboxRecord]:
        """All live sandboxes."""

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """One live sandbox, or SandboxNotFoundError."""

    async def stats(self, sandbox_id: str) -> SandboxStats:
        """What the sandbox uses now."""

    async def metrics(
        self, sandbox_id: str, start: float | None = None, end: float | None = None, newest: int | None = None
    ) -> SandboxMetrics:
        """What the sandbox used from ``start`` to ``end`` (epoch seconds), or the ``newest`` so many samples of that."""

    async def dial(self, sandbox_id: str) -> socket.socket:
        """A fresh, unconnected, non-blocking TCP socket inside the sandbox's network; the caller owns it."""

    async def templates(self) -> Sequence[Template]:
        """The templates that the node can run."""

    async def dns_sockets(self) -> ResolverSockets:
        """The resolver's sockets; the caller owns its copies."""

    async def ping(self) -> NodeInfo:
        """Who the node is."""

    async def start_build(self, request: BuildRequest) -> None:
        """Queue a build; a build id that the node knows already changes nothing. Raises: NoCapacityError, InvalidRequestError."""

    async def report_build(self, build_id: str, offset: int = 0, limit: int = 100) -> BuildReport:
        """A build's state, and at most ``limit`` (0 to 1,000) entries of its log from ``offset`` on. NotFoundError if there is none."""

    async def cancel_build(self, build_id: str) -> bool:
        """End a build that has not ended, with status ``error``; False if there is none."""

    async def drop_build(self, build_id: str) -> None:
        """Forget a build and what it made; live sandboxes of it live on."""

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """What a live sandbox's disk holds now, as the template ``build_id``; one that is there already is given back."""
