"""Slows down clients that send wrong keys, tokens and signatures.

Keys and tokens have at least 160 random bits, so they cannot be guessed; this bounds the cost of guessing for the server and its log.
Only failures are counted, and only failures are delayed: a valid key is answered at once, whatever its address sent before.
Invariant: memory is bounded, by the number of remembered addresses and of delayed failures.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from aiohttp import web

from cloister.api.peers import Peers
from cloister.errors import TooManyFailuresError

__all__ = ["Failures"]

_log = structlog.get_logger("cloister.api")
_FORGIVEN_PER_S = 1.0
_FORGIVEN_PER_S_OF_ALL = 20.0
_ALL_FACTOR = 20
"""Bound of failures at once of all addresses together, as a multiple of one address's bound."""
_MAX_DELAY_S = 10.0
_MAX_PEERS = 4_096
_MAX_WAITING = 256
"""Bound of delayed answers. Failures beyond it are answered at once, and their connections closed."""


class _Bucket:
    """Failures of one peer, or of all: each failure raises the level, and time lowers it."""

    def __init__(self, at_once: int, per_s: float) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._level = 0.0
        self._at = 0.0

    def add(self, now: float) -> float:
        """Count a failure; returns the seconds until the level falls to ``at_once``."""
        self._level = max(0.0, self._level - (now - self._at) * self._per_s) + 1.0
        self._level = min(self._level, self._at_once + _MAX_DELAY_S * self._per_s)
        self._at = now
        return max(0.0, self._level - self._at_once) / self._per_s


class Failures:
    """Counts failures by peer. ``at_once`` failures of one peer are answered without delay."""

    def __init__(self, peers: Peers, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._at_once = at_once
        self._clock = clock
        self._all = _Bucket(at_once * _ALL_FACTOR, _FORGIVEN_PER_S_OF_ALL)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._waiting = 0

    async def note(self, request: web.BaseRequest) -> None:
        """Count a request without a valid credential. Returns when its error may be answered.

        Raises:
            TooManyFailuresError: after a delay: its peer has failed too often.
        """
        peer = self._peers.of(request)
        delay_s = max(self._bucket(peer).add(self._clock()), self._all.add(self._clock()))
        if not delay_s:
            return
        error = TooManyFailuresError("too many requests with wrong keys or tokens came from this address", hint="use a valid key")
        if self._waiting >= _MAX_WAITING:
            request.protocol.close()  # after the answer is sent
            raise error
        _log.warning("credentials.slowed", peer=peer, delay_s=round(delay_s, 1))
        self._waiting += 1
        try:
            await asyncio.sleep(min(delay_s, _MAX_DELAY_S))
        finally:
            self._waiting -= 1
        raise error

    def _bucket(self, peer: str) -> _Bucket:
        bucket = self._buckets.pop(peer, None) or _Bucket(self._at_once, _FORGIVEN_PER_S)
        self._buckets[peer] = bucket
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        return bucket
