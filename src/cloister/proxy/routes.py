"""What the data plane needs of the rest: to look a sandbox up, and to reach into its network. It is handed both."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Dialer", "Gone", "Route", "Routes"]


@dataclass(frozen=True)
class Route:
    """A running sandbox."""

    sandbox_id: str
    access_token: str | None = field(repr=False)
    """What the agent's ports demand; None for an insecure sandbox."""
    traffic_token: str | None = field(repr=False)
    """What every port but the agent's demands; None: they are public."""


@dataclass(frozen=True)
class Gone:
    """A sandbox that ended; ``why`` is the rest of a sentence that begins with it."""

    why: str


class Routes(Protocol):
    """Looks sandboxes up, in memory: it is asked on every request."""

    def find(self, sandbox_id: str) -> Route | Gone | None:
        """The sandbox, how it ended, or None if none of that id is known."""

    def access_tokens(self) -> Iterable[tuple[str, str]]:
        """Id and access token of every running sandbox that has one."""


class Dialer(Protocol):
    """Reaches into sandboxes' networks."""

    async def dial(self, sandbox_id: str) -> socket.socket:
        """A fresh, unconnected, non-blocking TCP socket (IPv6, or IPv4) inside the sandbox's network; the caller owns it."""
