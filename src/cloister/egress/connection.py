"""A connection of a sandbox on its way out, and the interface of the code that opens it up to change its headers.

Invariant I4: whoever holds a :class:`Connection` reaches the outside only by its ``dial``, which follows the verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from cloister.egress.pace import Pace
from cloister.egress.reasons import Reason
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge, Verdict
from cloister.model.network import EgressProxy, HeaderRule

__all__ = ["Connection", "DialError", "Interceptor", "Upstream"]


class DialError(Exception):
    """No upstream connection: refused, unreachable, or the proxy is down. ``reason`` is for the record; it holds no credentials."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Upstream:
    """An open connection to the destination. ``address`` is the destination's, empty where a proxy resolves the name."""

    stream: ByteStream
    address: str


@dataclass(eq=False)
class Connection:
    """One accepted connection, and what was decided about it."""

    sandbox_id: str
    source: str
    """The sandbox's address."""
    original: tuple[str, int]
    """Address and port that the program in the sandbox connected to."""
    client: ByteStream
    """The sandbox's end. Its first bytes, a ClientHello or the head of a request, were read and put back."""
    judge: Callable[[], Judge]
    """Knows the policy that is in force at this moment."""
    name: str | None = None
    """In lower case, from SNI or Host."""
    is_tls: bool = False
    verdict: Verdict | None = None
    rule: HeaderRule | None = None
    """The header rule that fits the name most closely."""
    proxy: EgressProxy | None = None
    """The sandbox's proxy at the time of the verdict."""
    pace: Pace = field(default_factory=Pace)
    """The sandbox's turns for work that does not wait."""
    began_at: float = field(default_factory=time.time)
    upstream: Upstream | None = None
    open: Callable[[Connection], Awaitable[Upstream]] | None = None
    task: asyncio.Task[None] | None = None
    is_cut: bool = False
    """Whether :meth:`cut` was called. Nothing of it may begin then, tasks of its own task included, which end later."""

    async def dial(self) -> Upstream:
        """Open the connection to the destination, directly or through the sandbox's proxy. At most one at a time is open.

        A connection with a ``rule`` goes to an address that the server resolved for ``name``, if the policy allows that one too. The caller
        need not close it: it is closed with the connection. Raises: DialError.
        """
        if self.open is None:
            raise DialError("no_dialer")
        if self.upstream is not None:
            self.upstream.stream.abort()
        self.upstream = await self.open(self)
        return self.upstream

    def cut(self) -> None:
        """End it: the task that serves it is cancelled, and both ends are reset. Idempotent."""
        self.is_cut = True
        if self.task is not None:
            self.task.cancel()
        self.abort()

    def abort(self) -> None:
        """Reset both ends."""
        self.client.abort()
        if self.upstream is not None:
            self.upstream.stream.abort()

    def close(self) -> None:
        """Close both ends; data that the kernel has taken is delivered."""
        self.client.close()
        if self.upstream is not None:
            self.upstream.stream.close()


class Interceptor(Protocol):
    """Serves the connections whose requests get other headers."""

    async def intercept(self, connection: Connection) -> None:
        """Serve ``connection``, whose ``name`` is set, until it ends; without a ``rule`` its requests are only checked.

        The caller closes both ends afterwards.

        With ``is_tls`` the client's first bytes are a ClientHello with that name; else they are a request with that Host. Every request
        in it must name the same host; another ends the connection before it is passed on.
        The task is cancelled when the policy changes so that the connection is no longer allowed, or its rule is another. Raises: OSError,
        DialError: the connection is reset.
        """
        ...
