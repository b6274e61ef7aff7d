"""Reads a ``multipart/form-data`` body part by part as it arrives. No I/O of its own: a function gives it the next bytes.

Invariant: a part is complete only after the boundary behind it was read; in a body that ends earlier ``pieces`` raises. The bytes of a part
pass through without being copied or collected. aiohttp's reader copies each byte several times, which doubled the cost of an upload.
Source: RFC 2046 5.1, RFC 7578.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

from cloister.errors import InvalidRequestError

__all__ = ["FormReader", "boundary_of"]

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_MAX_BOUNDARY = 70
_MAX_HEAD_BYTES = 64 << 10
_LINE_END = b"\r\n"
_CLOSING = b"--"


def boundary_of(content_type: str) -> bytes:
    """The boundary in the header ``Content-Type``. Raises: InvalidRequestError."""
    found = _BOUNDARY.search(content_type)
    boundary = (found[1] or found[2] or "") if found else ""
    if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise _malformed(f"its boundary must have 1 to {_MAX_BOUNDARY} characters")
    return boundary.encode()


class FormReader:
    """``pull`` gives the next bytes of the body, none at its end."""

    def __init__(self, pull: Callable[[], Awaitable[bytes]], boundary: bytes) -> None:
        self._pull = pull
        self._delimiter = _LINE_END + b"--" + boundary
        self._ahead = _LINE_END  # bytes that were read but not consumed; the first boundary has no line before it
        self._lead = 0  # how many of them do not belong to the part
        self._in_part = True  # bytes before the first boundary are skipped like a part
        self._is_closed = False

    async def next(self) -> dict[str, str] | None:
        """The headers of the next part, names in lower case, or None after the last. Skips the rest of the part before.

        Raises: InvalidRequestError.
        """
        async for _ in self.pieces():
            pass
        if self._is_closed:
            return None
        self._ahead = _LINE_END + self._ahead  # so that a head without any header ends like every other
        head = await self._until(_LINE_END * 2)
        self._ahead = _LINE_END + self._ahead  # in a part without a body the boundary begins here
        self._lead = len(_LINE_END)
        self._in_part = True
        return _headers(head)

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        """The bytes of the present part as they arrive; the next part skips the rest. Raises: InvalidRequestError."""
        while self._in_part:
            data, lead = self._ahead, self._lead
            at = data.find(self._delimiter)
            if at >= 0:
                self._in_part = False
                self._ahead = data[at + len(self._delimiter) :]
            else:
                at = self._sure(data)
                self._ahead = data[at:]
                self._lead = max(0, lead - at)
            if at > lead:
                yield data if (lead, at) == (0, len(data)) else memoryview(data)[lead:at]
            await (self._read_on() if self._in_part else self._end_boundary())

    async def _end_boundary(self) -> None:
        """Read the bytes after the delimiter, which show whether it was one."""
        while len(self._ahead) < len(_CLOSING):
            await self._read_on()
        if self._ahead.startswith(_CLOSING):
            self._is_closed = True
        elif (await self._until(_LINE_END)).strip(b" \t"):
            raise _malformed("a line begins as its boundary does, but does not end there")

    def _sure(self, data: bytes) -> int:
        """How many bytes of ``data`` cannot be the beginning of the delimiter, whose only CR is its first byte."""
        at = data.rfind(b"\r", max(0, len(data) - len(self._delimiter) + 1))
        return at if at >= 0 and self._delimiter.startswith(data[at:]) else len(data)

    async def _until(self, end: bytes) -> bytes:
        """Consume ``end`` and the bytes before it, which are returned."""
        while (at := self._ahead.find(end, 0, _MAX_HEAD_BYTES)) < 0:
            if len(self._ahead) >= _MAX_HEAD_BYTES:
                raise _malformed(f"the headers of a part have more than {_MAX_HEAD_BYTES} bytes")
            await self._read_on()
        taken, self._ahead = self._ahead[:at], self._ahead[at + len(end) :]
        return taken

    async def _read_on(self) -> None:
        more = await self._pull()
        if not more:
            raise _malformed("it ends before its last boundary")
        self._ahead = self._ahead + more if self._ahead else more


def _headers(head: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    text = head.decode("utf-8", "surrogateescape").removeprefix("\r\n")
    for line in re.sub(r"\r\n[ \t]+", " ", text).split("\r\n") if text else ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise _malformed("a part has a header without a name")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def _malformed(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"the form is malformed: {reason}")
