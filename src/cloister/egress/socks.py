"""A SOCKS5 client: asks a sandbox's own proxy for a connection, perhaps over TLS.

Invariant I4: without the proxy there is no connection. Credentials go to the proxy alone; errors and records have none of them.
Source: RFC 1928, RFC 1929.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from functools import cached_property
from ipaddress import IPv4Address

from cloister.egress.connection import DialError
from cloister.egress.streams import ByteStream
from cloister.model.network import EgressProxy
from cloister.model.secret import reveal
from cloister.tls.context import make_client_context

__all__ = ["SocksDialer"]

_VERSION, _AUTH_VERSION = 5, 1
_NO_AUTH, _PASSWORD = 0, 2
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_CHUNK = 64 << 10
Reach = Callable[[str, int], Awaitable[ByteStream]]
"""Opens a TCP connection to the proxy itself. Raises: DialError."""


class SocksDialer:
    """Opens connections through proxies."""

    def __init__(self, certificates: str = "") -> None:
        """``certificates`` (PEM) verify proxies without certificates of their own."""
        self._certificates = certificates

    @cached_property
    def _trusting_host(self) -> ssl.SSLContext:
        return make_client_context(self._certificates)

    async def open(self, proxy: EgressProxy, host: str, port: int, reach: Reach) -> ByteStream:
        """A connection to ``host``, an address or a name, through ``proxy``. Raises: DialError, OSError."""
        proxy_host, _, proxy_port = proxy.address.rpartition(":")
        try:
            stream = await reach(proxy_host, int(proxy_port))
        except DialError:
            raise DialError("proxy_unreachable") from None
        try:
            if proxy.tls:
                stream = await self._over_tls(proxy, proxy_host, stream)
            await _greet(stream, proxy)
            await _ask(stream, host, port)
        except BaseException as error:
            stream.abort()
            if isinstance(error, ssl.SSLError | ValueError):
                raise DialError("proxy_tls_failed") from None
            if isinstance(error, OSError):
                raise DialError("proxy_broke_off") from None
            raise
        return stream

    async def _over_tls(self, proxy: EgressProxy, host: str, below: ByteStream) -> ByteStream:
        context = self._trusting_host if proxy.ca_certs is None else make_client_context(proxy.ca_certs)
        reader, writer = await asyncio.open_connection(sock=below.socket, ssl=context, server_hostname=proxy.server_name or host)
        return _BridgedStream(reader, writer)


class _BridgedStream(ByteStream):
    """A TLS connection as a socket: a task passes the bytes on between it and a socket pair. TLS has no half-close here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, self._far = socket.socketpair()
        near.setblocking(False)
        self._far.setblocking(False)
        super().__init__(near)
        self._reader, self._writer = reader, writer
        self._bridge = asyncio.create_task(self._pass_on())

    async def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        up = loop.create_task(self._up())
        try:
            while data := await self._reader.read(_CHUNK):
                await loop.sock_sendall(self._far, data)
            self._far.shutdown(socket.SHUT_WR)
            await up
        except OSError:
            pass  # one end is gone, so both are closed
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            self._writer.transport.abort()
            self._far.close()

    async def _up(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._far, _CHUNK):
                self._writer.write(data)
                await self._writer.drain()

    def close(self) -> None:
        """See :class:`ByteStream`. Bytes that the bridge has not passed on yet are lost."""
        super().close()
        self._bridge.cancel()


async def _greet(stream: ByteStream, proxy: EgressProxy) -> None:
    methods = bytes([_NO_AUTH] if proxy.username is None else [_NO_AUTH, _PASSWORD])
    await stream.write(bytes([_VERSION, len(methods)]) + methods)
    version, method = await _read(stream, 2)
    if version != _VERSION or method not in methods:
        raise DialError("proxy_refused_credentials" if version == _VERSION else "proxy_speaks_no_socks5")
    if method == _PASSWORD:
        name, password = (text.encode() for text in (proxy.username or "", reveal(proxy.password) or ""))
        await stream.write(bytes([_AUTH_VERSION, len(name)]) + name + bytes([len(password)]) + password)
        if (await _read(stream, 2))[1] != 0:
            raise DialError("proxy_refused_credentials")


async def _ask(stream: ByteStream, host: str, port: int) -> None:
    try:
        target = bytes([_IPV4]) + IPv4Address(host).packed
    except ValueError:
        target = bytes([_NAME, len(host)]) + host.encode("ascii")
    await stream.write(bytes([_VERSION, _CONNECT, 0]) + target + struct.pack("!H", port))
    version, code, _, kind = await _read(stream, 4)
    if version != _VERSION or code != 0:
        raise DialError("proxy_refused")
    length = {_IPV4: 4, _IPV6: 16}.get(kind)
    if length is None:
        length = (await _read(stream, 1))[0]
    await _read(stream, length + 2)


async def _read(stream: ByteStream, count: int) -> bytes:
    """Exactly ``count`` bytes. Raises: DialError: the proxy has ended."""
    found = b""
    while len(found) < count:
        more = await stream.read(count - len(found))
        if not more:
            raise DialError("proxy_broke_off")
        found += more
    return found
