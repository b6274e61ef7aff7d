"""Copies bytes between two aiohttp connections after an upgrade, in both directions, unchanged, with back-pressure.

The endpoints handle frames, extensions and close codes. Invariant: only the buffers of the two transports contain waiting data. If one
side does not read, the tunnel stops reading from the other.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Tunnel"]


_Connection = Any
"""An aiohttp connection protocol of either side. Their ``set_parser`` methods differ in type only."""


class _Half:
    """One direction, as a payload parser that aiohttp feeds."""

    def __init__(self, source: _Connection, target: _Connection, done: asyncio.Event) -> None:
        self._source = source
        self._target = target
        self._done = done
        self._resuming: asyncio.Task[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Write the bytes to the target."""
        target = self._target.transport
        if target is None or target.is_closing():
            self._done.set()
            return False, b""
        target.write(data)
        source = self._source.transport
        if self._target.writing_paused and self._resuming is None and source is not None:
            source.pause_reading()
            self._resuming = asyncio.create_task(self._resume())
        return False, b""

    async def _resume(self) -> None:
        try:
            await self._target._drain_helper()  # noqa: SLF001 - aiohttp has no other awaitable for a drained transport
        except ConnectionError:
            self._done.set()
            return
        finally:
            self._resuming = None
        source = self._source.transport
        if source is not None:
            source.resume_reading()

    def feed_eof(self) -> None:
        """The source has ended."""
        self._done.set()

    def set_exception(self, *_: object) -> None:
        """The source failed."""
        self._done.set()

    def stop(self) -> None:
        """Stop waiting for the target."""
        if self._resuming is not None:
            self._resuming.cancel()


class Tunnel:
    """Two upgraded connections."""

    def __init__(self, client: _Connection, upstream: _Connection) -> None:
        self._done = asyncio.Event()
        self._client = client
        self._upstream = upstream
        self._up = _Half(client, upstream, self._done)
        self._down = _Half(upstream, client, self._done)

    async def run(self) -> None:
        """Copy until one side ends, then flush the buffers and close both sides. Cancellation aborts both."""
        try:
            self._upstream.set_parser(self._down, self._down)
            self._client.set_parser(self._up)
            await self._done.wait()
            self._close(abort=False)
        except BaseException:
            self._close(abort=True)
            raise
        finally:
            self._up.stop()
            self._down.stop()

    def _close(self, *, abort: bool) -> None:
        for side in (self._client, self._upstream):
            if side.transport is not None:
                if abort:
                    side.transport.abort()
                else:
                    side.transport.close()
