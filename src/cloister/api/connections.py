"""Bounds the connections of clients, in total and for each peer, and chooses connections to close for new ones.

Owns the bounds that hold before authentication (I6). A connection *waits* while the server has no complete request head on it: from its
acceptance, and again after each answer. At the bound, the connection that has waited longest is closed. So a flood of half-open
connections displaces itself, and a client that sends its request at once is served. Invariant: there are at most ``most`` connections,
and at most ``most_per_peer`` of one peer. No I/O.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Connection", "ConnectionPolicy", "Connections", "Refusal"]

_MAX_HEADS_BYTES = 32 << 20
"""Bytes of all incomplete heads together."""


@dataclass(frozen=True, kw_only=True)
class ConnectionPolicy:
    """The server's bounds."""

    most: int
    most_per_peer: int
    head_timeout_s: float
    """From acceptance, or the first byte of a later request, to the end of the head; includes a TLS handshake."""
    stall_timeout_s: float
    """How long a client may leave sent bytes without reading any."""


class Refusal(Enum):
    """The reason for which a connection is refused."""

    PEER = "the address has as many connections as it may have"
    SERVER = "the server has as many connections as it may have"


class Connection:
    """One client connection. ``expire`` is called if its head does not arrive in time, ``abort`` to close it at once."""

    __slots__ = ("abort", "deadline", "expire", "head_bytes", "is_open", "peer", "waits")

    def __init__(self, peer: _Peer) -> None:
        self.peer = peer
        self.abort: Callable[[], object] = _nothing
        self.expire: Callable[[], object] = _nothing
        self.head_bytes = 0
        self.deadline = 0.0
        self.is_open = True
        self.waits = False


class _Peer:
    """The connections of one peer. ``key`` is None if only the server's bound applies."""

    __slots__ = ("count", "key", "waiting")

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.count = 0
        self.waiting: OrderedDict[Connection, None] = OrderedDict()


class Connections:
    """All connections of one server."""

    def __init__(self, policy: ConnectionPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._clock = clock
        self._count = 0
        self._heads_bytes = 0
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        """All waiting connections; the first has waited longest."""
        self._heads: OrderedDict[Connection, None] = OrderedDict()
        """Waiting connections with a deadline (idle ones have none); the first expires next."""
        self._peers: dict[str, _Peer] = {}
        self._unbounded = _Peer(None)

    def __len__(self) -> int:
        return self._count

    def admit(self, key: str | None) -> Connection | Refusal:
        """Admit a new, waiting connection of the peer ``key`` (None: without a bound of its own); or return the reason to refuse it."""
        peer = self._unbounded if key is None else self._peers.get(key) or _Peer(key)
        if key is not None and peer.count >= self.policy.most_per_peer and not self._make_room(peer.waiting):
            return Refusal.PEER
        if self._count >= self.policy.most and not self._make_room(self._waiting):
            return Refusal.SERVER
        if key is not None:
            self._peers[key] = peer  # the eviction may have removed it
        connection = Connection(peer)
        peer.count += 1
        self._count += 1
        self.wait(connection, has_begun=True)
        return connection

    def wait(self, connection: Connection, *, has_begun: bool) -> None:
        """The connection waits for a request. ``has_begun``: the deadline of its head begins now."""
        if connection.is_open and not connection.waits:
            connection.waits = True
            self._waiting[connection] = connection.peer.waiting[connection] = None
            if has_begun:
                self._begin(connection)

    def begin(self, connection: Connection, size: int) -> None:
        """``size`` bytes of an incomplete head arrived."""
        if not connection.is_open:
            return
        connection.head_bytes += size
        self._heads_bytes += size
        if connection.waits and connection not in self._heads:
            self._begin(connection)
        while self._heads_bytes > _MAX_HEADS_BYTES and self._make_room(self._heads):
            pass

    def _begin(self, connection: Connection) -> None:
        connection.deadline = self._clock() + self.policy.head_timeout_s
        self._heads[connection] = None

    def work(self, connection: Connection) -> None:
        """The head of a request is complete."""
        self._heads_bytes -= connection.head_bytes
        connection.head_bytes = 0
        if connection.waits:
            connection.waits = False
            self._waiting.pop(connection, None)
            self._heads.pop(connection, None)
            connection.peer.waiting.pop(connection, None)

    def lose(self, connection: Connection) -> None:
        """Remove a connection that is closed or closing. Idempotent."""
        if not connection.is_open:
            return
        self.work(connection)
        connection.is_open = False
        self._count -= 1
        peer = connection.peer
        peer.count -= 1
        if not peer.count and peer.key is not None:
            del self._peers[peer.key]

    def expire(self) -> None:
        """Expire connections whose head did not arrive in time. Call this about once a second."""
        now = self._clock()
        while self._heads and (oldest := next(iter(self._heads))).deadline <= now:
            self._heads.pop(oldest)
            oldest.expire()

    def _make_room(self, waiting: OrderedDict[Connection, None]) -> bool:
        if not waiting:
            return False
        oldest = next(iter(waiting))
        self.lose(oldest)
        oldest.abort()
        return True


def _nothing() -> None:
    """For a connection that is not served yet: the code that begins to serve it checks whether it is still open."""
