"""A SOCKS5 proxy of the pretend internet (RFC 1928, RFC 1929): CONNECT by address or name, with or without credentials."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

__all__ = ["PASSWORD", "USERNAME", "SocksProxy"]

USERNAME, PASSWORD = "user", "the-proxys-password"
_ANY, _CREDENTIALS, _NONE = 0, 2, 0xFF
_SUCCEEDED, _REFUSED, _UNREACHABLE, _NOT_SUPPORTED = 0, 2, 4, 7


class SocksProxy:
    """The proxy. ``look_up`` gives the address of a name; None: there is none."""

    def __init__(self, look_up: Callable[[str], str | None]) -> None:
        self._look_up = look_up
        self.connections: list[dict[str, object]] = []
        """Host as asked for, port, and user of each CONNECT."""
        self._tasks: set[asyncio.Task[None] | None] = set()
        self.is_refusing = False
        """Whether it answers that its rules do not allow a connection."""

    def refuse(self, refuse: bool) -> None:
        """Begin or stop to refuse connections."""
        self.is_refusing = refuse

    async def with_credentials(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client that must log in."""
        await self._serve(reader, writer, _CREDENTIALS)

    async def without_credentials(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve any client."""
        await self._serve(reader, writer, _ANY)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: int) -> None:
        self._tasks.add(task := asyncio.current_task())  # the event loop would forget it
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            user = await _greet(reader, writer, method)
            if user is not None:
                await self._connect(reader, writer, user)
        writer.close()
        self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> None:
        version, command, _, kind = await reader.readexactly(4)
        host = await _read_host(reader, kind)
        port = int.from_bytes(await reader.readexactly(2), "big")
        if version != 5 or command != 1 or host is None:
            _answer(writer, _NOT_SUPPORTED)
            return
        self.connections.append({"host": host, "port": port, "user": user})
        address = host if kind == 1 else self._look_up(host)
        if self.is_refusing or address is None:
            _answer(writer, _REFUSED if self.is_refusing else _UNREACHABLE)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError:
            _answer(writer, _UNREACHABLE)
            return
        _answer(writer, _SUCCEEDED)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        far_writer.close()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: int) -> str | None:
    """The user, empty without credentials; None: not let in."""
    _, count = await reader.readexactly(2)
    if method not in await reader.readexactly(count):
        writer.write(bytes((5, _NONE)))
        return None
    writer.write(bytes((5, method)))
    if method == _ANY:
        return ""
    _, length = await reader.readexactly(2)
    username = (await reader.readexactly(length)).decode()
    password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    is_right = (username, password) == (USERNAME, PASSWORD)
    writer.write(bytes((1, not is_right)))
    return username if is_right else None


async def _read_host(reader: asyncio.StreamReader, kind: int) -> str | None:
    if kind == 1:
        return socket.inet_ntoa(await reader.readexactly(4))
    if kind == 3:
        return (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    return None


def _answer(writer: asyncio.StreamWriter, code: int) -> None:
    writer.write(bytes((5, code, 0, 1)) + bytes(6))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.transport.abort()
        return
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()  # TLS has no end of one direction
