"""The process's end of the link to the supervisor (:mod:`cloister.egresswire.link`).

Owns the order: all policies, then the listeners, then changes one by one. Invariant I4: a message that cannot be read ends the process,
because its policies would be out of date.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from cloister.egress.policies import PolicyTable
from cloister.egress.records import INTERVAL_S, RecordBuffer
from cloister.egresswire.link import (
    MAX_LINE_BYTES,
    MAX_RECORDS,
    Begin,
    Forget,
    LookUps,
    Put,
    Serve,
    parse_message,
    render_done,
    render_look_ups,
    render_records,
)
from cloister.errors import InvalidRequestError
from cloister.network.looked_up import LookupBuffer

__all__ = ["Supervision"]


class Supervision:
    """Reads messages until the supervisor ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, link: socket.socket) -> Supervision:
        """Take over ``link``."""
        reader, writer = await asyncio.open_unix_connection(sock=link, limit=MAX_LINE_BYTES)
        return cls(reader, writer)

    async def begin(self) -> Begin:
        """The first message. Raises: InvalidRequestError; EOFError: the supervisor has ended."""
        message = parse_message(await self._line())
        if not isinstance(message, Begin):
            raise InvalidRequestError("the first message must be begin")
        return message

    async def follow(self, policies: PolicyTable, serve: Callable[[], Awaitable[None]]) -> None:
        """Apply messages as they come; ``serve`` opens the listeners. Raises: InvalidRequestError; EOFError: the supervisor has ended."""
        while True:
            message = parse_message(await self._line())
            match message:
                case Put():
                    policies.put(message.address, message.sandbox_id, message.policy)
                case Forget():
                    policies.forget(message.address)
                case Serve():
                    await serve()
                case Begin():
                    raise InvalidRequestError("begin comes once")
            self._writer.write(render_done(message.number))
            await self._writer.drain()

    async def report(self, records: RecordBuffer, look_ups: LookupBuffer) -> None:
        """Send the records and look-ups, every ``INTERVAL_S``, as long as the process runs."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            found = look_ups.take()
            for start in range(0, len(found), MAX_RECORDS):
                self._writer.write(render_look_ups(LookUps(found[start : start + MAX_RECORDS])))
            for part in records.take():
                self._writer.write(render_records(part))
                await self._writer.drain()

    async def _line(self) -> bytes:
        line = await self._reader.readline()  # raises ValueError for a line beyond the limit
        if not line.endswith(b"\n"):
            raise EOFError
        return line
