"""Interfaces that the data plane needs: a lookup of sandboxes, connections into their networks, and a way to wake paused ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from cloister.protocol.dialled import Dialled

__all__ = ["Asleep", "Dialer", "FarDialer", "Gone", "Route", "Routes", "Waker"]


@dataclass(frozen=True)
class Route:
    """A running sandbox, and what its ports require."""

    sandbox_id: str
    access_token: str | None = field(repr=False)
    """Token that the agent's ports require; None for an insecure sandbox."""
    traffic_token: str | None = field(repr=False)
    """Token that all other ports require; None if they are public."""
    host_mask: str | None = None
    """Host header that programs see, with ``${PORT}`` for their port; None keeps the client's."""

    https_ports: tuple[int, ...] = ()
    """Ports whose programs speak TLS."""

    def host_at(self, port: int) -> str | None:
        """The Host header for ``port``; None keeps the client's."""
        return None if self.host_mask is None else self.host_mask.replace("${PORT}", str(port))


@dataclass(frozen=True)
class Asleep:
    """A sandbox that is pausing, paused or resuming."""

    route: Route
    """As it was while the sandbox ran; a resume does not change it."""
    wakes: bool
    """Whether a request with the required tokens wakes it."""
    why: str
    """Completes the sentence "The sandbox ..." for people, and says how to resume it. Told only to those who have the tokens."""


@dataclass(frozen=True)
class Gone:
    """A sandbox that ended; ``why`` completes the sentence "The sandbox ..."."""

    why: str


class Routes(Protocol):
    """Looks up sandboxes, in memory because every request asks."""

    def find(self, sandbox_id: str) -> Route | Asleep | Gone | None:
        """The sandbox, or how it ended, or None for an unknown id."""

    async def catch_up(self) -> None:
        """Return when the routes are true for all that was complete before this call: another process may have made a sandbox.

        Raises: CloisterError: they may not be; they are as they were.
        """

    def access_tokens(self) -> Iterable[tuple[str, str]]:
        """Id and access token of every sandbox that has one and runs, is paused, or changes between the two."""


class Dialer(Protocol):
    """Opens ways into sandboxes' networks."""

    async def dial(self, sandbox_id: str) -> Dialled:
        """A new, unconnected, non-blocking TCP socket that reaches the sandbox, and its addresses; the caller closes it."""


@runtime_checkable
class FarDialer(Protocol):
    """Connects to sandboxes on other machines, in place of a :class:`Dialer`."""

    async def open_far(self, sandbox_id: str, port: int) -> tuple[asyncio.Transport, bytes]:
        """A connection to a port of a sandbox, with reading paused, and bytes that were read from it already; the caller closes it.

        Raises: OSError: no program listens there; CloisterError: the node does not answer, or has no such sandbox.
        """


class Waker(Protocol):
    """Resumes sandboxes on behalf of traffic."""

    async def wake(self, sandbox_id: str) -> None:
        """Resume the sandbox for its auto-resume time; returns when it runs and :meth:`Routes.find` says so.

        One that is still being paused is waited for. One that runs is left as it is. The caller joins concurrent requests, and may cancel
        the call; the start then goes on.

        Raises:
            QuotaExceededError, NoCapacityError, SandboxNotFoundError, ConflictError, UnavailableError, other CloisterErrors of a start.
        """
