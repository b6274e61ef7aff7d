"""The server of header values: answers the egress process on a unix socket (:mod:`cloister.egresswire.values`).

The launcher makes the socket, which only the egress process's user may connect to; the uid of each peer is checked again here. Owns the
connections and their bounds. A refusal is logged with its reason, never with a text.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import structlog

from cloister.egresswire.values import ANSWER_S, MAX_LINE_BYTES, AskValues, parse_request, render_answer, render_error
from cloister.errors import CloisterError

__all__ = ["Fill", "ValuesServer", "answer_values"]

Fill = Callable[[AskValues], Awaitable[tuple[str, ...]]]
"""The texts of a request, in their order. Raises: CloisterError."""

_log = structlog.get_logger("cloister.api")
_MOST_CONNECTIONS = 256
_CREDENTIALS = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid (unix(7)). The uids of servers with a high instance number do not fit a signed integer."""


class ValuesServer:
    """Serves ``fill`` on a listening socket, which stays the caller's, to processes of the user ``uid``."""

    def __init__(self, listener: socket.socket, uid: int, fill: Fill) -> None:
        self._listener = listener
        self._uid = uid
        self._fill = fill
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_unix_server(self._accept, sock=self._listener.dup(), limit=MAX_LINE_BYTES)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a callback of asyncio's server is a task"
        uid = _uid_of(writer.get_extra_info("socket"))
        if uid != self._uid or len(self._connections) >= _MOST_CONNECTIONS:
            _log.warning("values.peer_refused", uid=uid, connections=len(self._connections))
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, ValueError) as error:  # ValueError: a line is longer than the limit
            _log.warning("values.connection_ended", error=str(error))
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(await self._answer(line))
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()

    async def _answer(self, line: bytes) -> bytes:
        return await answer_values(line, self._fill)


async def answer_values(line: bytes, fill: Fill) -> bytes:
    """The answer to a line of the egress process, which may be a refusal."""
    sandbox_id = host = None
    try:
        ask = parse_request(line)
        sandbox_id, host = ask.sandbox_id, ask.host
        async with asyncio.timeout(ANSWER_S):
            return render_answer(await fill(ask))
    except CloisterError as error:
        _log.info("values.refused", sandbox_id=sandbox_id, host=host, code=error.code, error=error.message)
        return render_error(error.code, error.message)
    except (OSError, TimeoutError):
        _log.exception("values.failed", sandbox_id=sandbox_id, host=host)
        return render_error("internal", "the server could not look up a value; its log says why")


def _uid_of(peer: socket.socket) -> int:
    """The uid of the process that connected (SO_PEERCRED, unix(7))."""
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)
