"""Asks the api process for the texts of headers (:mod:`cloister.egresswire.values`), and keeps an answer for a few seconds.

Errors are not kept. Invariant: values are in memory only, for at most :data:`KEPT_S`, and in no log and no error text.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from cloister.egresswire.values import ANSWER_S, MAX_LINE_BYTES, AskValues, parse_answer, render_request
from cloister.errors import UnavailableError
from cloister.network.limits import FairTurns

__all__ = ["KEPT_S", "ValuesClient"]

KEPT_S = 3.0
"""How long a replaced or deleted secret may still be sent."""
_MAX_KEPT = 256
_MAX_CONNECTIONS = 4
"""Questions at once. Sandboxes that wait take turns."""
_TIMEOUT_S = ANSWER_S + 5.0


class ValuesClient:
    """Asks over a few connections to the socket at ``path``, which are kept open. Event loop only."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._kept: OrderedDict[AskValues, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._turns = FairTurns(_MAX_CONNECTIONS)

    async def values(self, sandbox_id: str, host: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """See :class:`ValueSource`. Raises: UnavailableError: no answer in time; InvalidRequestError: the api process refuses."""
        self._drop_old()
        request = AskValues(sandbox_id, host, texts)
        if request in self._kept:
            return self._kept[request][1]
        asked_at = self._clock()
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._turns.turn(sandbox_id):
                line = await self._exchange(render_request(request))
        except (TimeoutError, OSError) as error:
            raise UnavailableError("the server does not give them now") from error
        texts = parse_answer(line)
        self._kept[request] = (asked_at, texts)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return texts

    def close(self) -> None:
        """Close the connections and forget the values."""
        self._kept.clear()
        while self._idle:
            self._idle.pop()[1].close()

    def _drop_old(self) -> None:
        limit = self._clock() - KEPT_S
        for request in [request for request, (asked_at, _) in self._kept.items() if asked_at < limit]:
            del self._kept[request]

    async def _exchange(self, line: bytes) -> bytes:
        """Raises: OSError."""
        while self._idle:  # the api process may have been started anew since
            with contextlib.suppress(OSError):
                return await self._ask(self._idle.pop(), line)
        return await self._ask(await asyncio.open_unix_connection(self._path, limit=MAX_LINE_BYTES), line)

    async def _ask(self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
        reader, writer = connection
        try:
            writer.write(line)
            await writer.drain()
            answer = await reader.readline()
            if not answer.endswith(b"\n"):
                raise ConnectionResetError("the connection ended")
        except ValueError as error:  # the line is longer than the limit
            writer.close()
            raise ConnectionResetError("an answer is too long") from error
        except BaseException:
            writer.close()
            raise
        self._idle.append(connection)
        return answer
