"""The streams between the guest and the upstream, with TLS or without.

TLS runs on memory BIOs, so bytes that the inspection has already read can come first, and a proxy's TLS can lie beneath. Invariant: a
stream holds no more than one read of its peer and one write, so a relay needs the same memory for a body of any length. Whoever has the
connections below closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Protocol

from cloister.egress.streams import ByteStream

__all__ = ["CHUNK_BYTES", "PlainStream", "ReadAhead", "Stream", "TlsStream", "linger", "relay_bytes"]

CHUNK_BYTES = 64 << 10
_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20


class Stream(Protocol):
    """A stream in both directions. Errors of the peer and of the network are OSError (ssl.SSLError is one)."""

    was_truncated: bool
    """Whether the peer ended a TLS stream without saying so."""
    can_half_close: bool
    """Whether a peer that has ended its direction may still want ours."""

    async def read(self) -> bytes:
        """At most :data:`CHUNK_BYTES`, as soon as there are any; empty at the end. One reader at a time."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of it; returns when the kernel has taken it. Calls of several tasks leave in the order in which they began."""
        ...

    async def end(self) -> None:
        """Send no more; the other direction goes on if the protocol can do that."""
        ...


class PlainStream:
    """A connection without TLS."""

    was_truncated = False
    can_half_close = True

    def __init__(self, below: ByteStream) -> None:
        self._below = below
        self._writing = asyncio.Lock()

    async def read(self) -> bytes:
        """See :class:`Stream`."""
        return await self._below.read(CHUNK_BYTES)

    async def write(self, data: bytes) -> None:
        """See :class:`Stream`."""
        async with self._writing:
            await self._below.write(data)

    async def end(self) -> None:
        """See :class:`Stream`."""
        async with self._writing:
            self._below.write_eof()


class TlsStream:
    """TLS over a connection. Call :meth:`handshake` first."""

    can_half_close = False

    def __init__(self, below: ByteStream, context: ssl.SSLContext, *, is_server: bool, server_name: str | None = None) -> None:
        self._below = PlainStream(below)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=is_server, server_hostname=server_name)
        self._has_ended = False
        self.was_truncated = False

    @property
    def protocol(self) -> str | None:
        """The protocol that both sides agreed on (ALPN)."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Raises: OSError; an ssl.SSLCertVerificationError says why the peer's certificate is not accepted. The peer gets the alert."""
        try:
            await self._drive(self._tls.do_handshake)
        finally:
            with contextlib.suppress(OSError):
                await self._flush()

    async def read(self) -> bytes:
        """See :class:`Stream`."""
        if self._has_ended:
            return b""
        try:
            return await self._drive(lambda: self._tls.read(CHUNK_BYTES)) or b""
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLEOFError:
            self.was_truncated = True
        self._has_ended = True
        return b""

    async def write(self, data: bytes) -> None:
        """See :class:`Stream`."""
        # A write to a memory BIO never waits, and there is no renegotiation (TLS 1.2) for which it would have to read.
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        await self._flush()

    async def end(self) -> None:
        """See :class:`Stream`."""
        with contextlib.suppress(ssl.SSLError):  # "want read": the peer's own end is not awaited
            self._tls.unwrap()
        await self._flush()

    async def _drive(self, step: Callable[[], bytes | None]) -> bytes | None:
        """Call ``step`` until it has what it needs of the peer."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._below.read()
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            else:
                if self._out.pending:  # an answer to the peer's change of keys
                    await self._flush()
                return result

    async def _flush(self) -> None:
        if self._out.pending:
            await self._below.write(self._out.read())


class ReadAhead:
    """Lets several waits share one read of a stream: a read that is not finished stays for the next call."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reading: asyncio.Task[bytes] | None = None

    def begin(self) -> asyncio.Task[bytes]:
        """The read that is under way, or a new one."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._stream.read())
        return self._reading

    async def read(self) -> bytes:
        """The bytes of that read."""
        reading = self.begin()
        await asyncio.wait([reading])  # a cancelled caller leaves the read under way
        self._reading = None
        return reading.result()

    async def stop(self) -> None:
        """Cancel a read that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None


async def relay_bytes(source: ReadAhead, sink: Stream) -> None:
    """Pass bytes on until the source ends, then end the sink."""
    while data := await source.read():
        await sink.write(data)
    await sink.end()


async def linger(source: ReadAhead, stream: Stream) -> None:
    """End our direction of ``stream`` and drop what its peer still sends, for a bounded time.

    A connection that is closed over unread bytes is reset, and the peer would lose our last words (RFC 9112 section 9.6).
    """
    left = _LINGER_BYTES
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await stream.end()
            while left > 0 and (data := await source.read()):
                left -= len(data)
