"""Content codings: chooses one that a client accepts, and inflates an upload up to a checked end. No I/O.

The only coding is gzip. A client that lists gzip alone gets it. One that lists several codings only states its abilities, and gets plain
bytes, which is faster than compression.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from cloister.errors import InvalidRequestError

__all__ = ["Inflater", "choose_encoding"]

_STEP_BYTES = 1 << 20
_GZIP = 31


def choose_encoding(accept: str | None) -> str | None:
    """``identity`` or ``gzip``; None if the client accepts neither."""
    weights: dict[str, float] = {}
    for item in (accept or "").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name:
            weights[name] = _weight(parameters)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    identity = weights.get("identity", weights.get("*", 1.0))
    if gzip > 0 and (identity <= 0 or set(weights) <= {"gzip", "x-gzip"}):
        return "gzip"
    return "identity" if identity > 0 else None


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


class Inflater:
    """Inflates a gzip stream in bounded pieces. Several members in a row are one file."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._is_fresh = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes that ``data`` completes, at most 1 MiB at a time.

        Raises: InvalidRequestError.
        """
        while data:
            if self._stream.eof:
                self._stream = zlib.decompressobj(_GZIP)
            try:
                piece = self._stream.decompress(data, _STEP_BYTES)
            except zlib.error as error:
                raise InvalidRequestError(f"the body is not valid gzip: {error}") from None
            self._is_fresh = False
            if piece:
                yield piece
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def finish(self) -> Iterator[bytes]:
        """The rest.

        Raises: InvalidRequestError: the stream is incomplete.
        """
        if self._is_fresh or not self._stream.eof:
            piece = self._stream.flush()
            if piece:
                yield piece
            if not self._stream.eof:
                raise InvalidRequestError("the body is not valid gzip: it ends too early")
