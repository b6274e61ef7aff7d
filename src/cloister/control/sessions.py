"""Sessions of the console: what a browser shows instead of an API key.

A session names a key by its hash and has no right of its own: each request looks the key up, so a revoked or expired key ends its
sessions. Invariants: the key's secret is not kept; sessions are in memory only and bounded; ids and tokens have 256 random bits, and of an
id only the hash is kept.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cloister.control.keys import HashedKey

__all__ = ["Session", "Sessions"]

IDLE_S = 8 * 3600.0
"""A session that is not used for so long ends."""
LIFETIME_S = 7 * 24 * 3600.0
_MOST = 10_000
_MOST_PER_KEY = 50
"""A further login ends the oldest session of its key."""
_MOST_PER_OWNER = 500
"""Of a team, whose keys may be many, or of all operators: so no team can end the sessions of another."""


@dataclass
class Session:
    """A browser that has logged in."""

    key: HashedKey
    owner: str
    """Id of the key's team; empty: the operator."""
    token: str = field(repr=False)
    """Pages show it in a header, which no other site's page can send (CSRF)."""
    began_at: float
    used_at: float


class Sessions:
    """All sessions of the server, the one that was used last at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, key: HashedKey, owner: str) -> tuple[str, Session]:
        """A new session; its id is the browser's secret. ``owner``: as :class:`Session`."""
        session_id, now = secrets.token_urlsafe(32), self._clock()
        self._make_room([known for known, one in self._sessions.items() if one.key == key], _MOST_PER_KEY)
        self._make_room([known for known, one in self._sessions.items() if one.owner == owner], _MOST_PER_OWNER)
        while len(self._sessions) >= _MOST:
            self._sessions.popitem(last=False)
        session = Session(key=key, owner=owner, token=secrets.token_urlsafe(32), began_at=now, used_at=now)
        self._sessions[_hash(session_id)] = session
        return session_id, session

    def _make_room(self, same: list[str], most: int) -> None:
        """End the oldest of these sessions, so that there is room for one."""
        for known in same[: max(0, len(same) + 1 - most)]:
            del self._sessions[known]

    def find(self, session_id: str) -> Session | None:
        """The session, which is used now; None: there is none, or its time is over."""
        known, now = _hash(session_id), self._clock()
        session = self._sessions.get(known)
        if session is None:
            return None
        if now - session.used_at > IDLE_S or now - session.began_at > LIFETIME_S:
            del self._sessions[known]
            return None
        session.used_at = now
        self._sessions.move_to_end(known)
        return session

    def end(self, session_id: str) -> None:
        """End the session, if there is one."""
        self._sessions.pop(_hash(session_id), None)


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogateescape")).hexdigest()
