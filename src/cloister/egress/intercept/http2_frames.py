"""Splits a stream of HTTP/2 into frames, and bounds those that cost work and carry nothing.

h2 reads the frames. It takes a GOAWAY as the end of the connection, streams in flight included, so the relay keeps GOAWAYs from it.
Sans-I/O. Source: RFC 9113 sections 4.1, 6.8 and 10.5.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["PREFACE", "FloodError", "Frame", "FrameSplitter", "Goaway", "render_goaway"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES = 9
_MAX_FRAME_BYTES = 16_384
"""SETTINGS_MAX_FRAME_SIZE, which we leave at its first value."""
_DATA, _HEADERS, _RESET, _GOAWAY, _CONTINUATION = 0, 1, 3, 7, 9
_MAX_CONTINUATIONS = 16
_BURST, _PER_S = 4_000.0, 1_000.0
"""Frames without a payload of a message (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA): a burst, and a lasting rate."""
_RESET_COST = 10.0
"""A reset counts as so many of them: it throws away the work for a request (CVE-2023-44487)."""


class FloodError(Exception):
    """The peer sends too many frames of a kind, or one that is too long."""


@dataclass(frozen=True)
class Frame:
    """A whole frame, or the preface (``kind`` is -1)."""

    kind: int
    data: bytes

    @property
    def goaway(self) -> Goaway | None:
        """What it says, if it is a GOAWAY."""
        if self.kind != _GOAWAY or len(self.data) < _HEADER_BYTES + 8:
            return None
        last, error = struct.unpack_from("!II", self.data, _HEADER_BYTES)
        return Goaway(last & 0x7FFFFFFF, error)


@dataclass(frozen=True)
class Goaway:
    """The peer takes no stream above ``last_stream_id`` any more."""

    last_stream_id: int
    error_code: int


class FrameSplitter:
    """Give it bytes as they come; it gives whole frames. Holds less than one frame."""

    def __init__(self, *, has_preface: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._buffer = bytearray()
        self._has_preface = has_preface
        self._clock = clock
        self._allowance = _BURST
        self._at = clock()
        self._continuations = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises: FloodError."""
        self._buffer += data
        if self._has_preface:
            if len(self._buffer) < len(PREFACE):
                return
            self._has_preface = False
            yield Frame(-1, self._take(len(PREFACE)))
        while len(self._buffer) >= _HEADER_BYTES:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _MAX_FRAME_BYTES:
                raise FloodError("a frame is too long")
            if len(self._buffer) < _HEADER_BYTES + length:
                return
            kind = self._buffer[3]
            self._count(kind, length)
            yield Frame(kind, self._take(_HEADER_BYTES + length))

    def allow(self, frames: int) -> None:
        """Expect so many frames more: the peer answers DATA with WINDOW_UPDATE."""
        self._allowance = min(_BURST, self._allowance + frames)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _count(self, kind: int, length: int) -> None:
        self._continuations = self._continuations + 1 if kind == _CONTINUATION else 0
        if self._continuations > _MAX_CONTINUATIONS:
            raise FloodError("headers have too many parts")
        if kind == _HEADERS or (kind == _DATA and length):
            return
        now = self._clock()
        self._allowance = min(_BURST, self._allowance + (now - self._at) * _PER_S) - (_RESET_COST if kind == _RESET else 1.0)
        self._at = now
        if self._allowance < 0:
            raise FloodError("too many frames without content")


def render_goaway(last_stream_id: int, error_code: int) -> bytes:
    """A GOAWAY frame."""
    return struct.pack("!BHBBIII", 0, 8, _GOAWAY, 0, 0, last_stream_id, error_code)
