"""The Connect protocol: envelopes, codes, error shapes, content types and deadlines. No I/O, and no knowledge of messages.

A unary call is one HTTP body; its error is an HTTP status with ``{"code", "message"}``. A stream is a sequence of envelopes, always with
status 200::

    +-------+-------------------+------------------+
    | flags | length, 4 bytes   | message          |     flags 0: a message; 1: compressed (refused); 2: the end, JSON:
    | 1 byte| big endian        | `length` bytes   |     {} or {"error": {"code", "message"}}
    +-------+-------------------+------------------+

Our errors become codes here. No direction uses compression, and clients are told so.
Source: connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cloister import errors
from cloister.errors import CloisterError, InvalidRequestError

__all__ = [
    "STREAM_TYPES",
    "UNARY_TYPES",
    "Code",
    "Codec",
    "ConnectError",
    "Envelope",
    "EnvelopeParser",
    "code_of",
    "codec_of",
    "encode_end",
    "encode_envelope",
    "error_object",
    "http_status",
    "parse_timeout_s",
    "refuse_compression",
    "too_large",
]

_HEADER = struct.Struct(">BI")
_COMPRESSED, _END = 1, 2
_MAX_TIMEOUT_DIGITS = 10


class Code(enum.StrEnum):
    """Every code of the protocol."""

    CANCELED = "canceled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATA_LOSS = "data_loss"
    UNAUTHENTICATED = "unauthenticated"


class Codec(enum.StrEnum):
    """The encoding of messages."""

    JSON = "json"
    PROTO = "proto"


UNARY_TYPES = {f"application/{codec}": codec for codec in Codec}
STREAM_TYPES = {f"application/connect+{codec}": codec for codec in Codec}

_STATUS = {
    Code.CANCELED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

_CODES: tuple[tuple[type[CloisterError], Code], ...] = (
    (InvalidRequestError, Code.INVALID_ARGUMENT),
    (errors.AuthenticationError, Code.UNAUTHENTICATED),
    (errors.PermissionDeniedError, Code.PERMISSION_DENIED),
    (errors.DeadlineError, Code.DEADLINE_EXCEEDED),
    (errors.NotFoundError, Code.NOT_FOUND),
    (errors.AlreadyExistsError, Code.ALREADY_EXISTS),
    (errors.ConflictError, Code.FAILED_PRECONDITION),
    (errors.StorageFullError, Code.FAILED_PRECONDITION),  # clients would take resource_exhausted for a rate limit, and wait
    (errors.LimitError, Code.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, Code.UNAVAILABLE),
    (errors.InternalError, Code.INTERNAL),
)


class ConnectError(CloisterError):
    """A fault that has a code of the protocol but no error class of ours, such as ``unimplemented``."""

    code = "connect"

    def __init__(self, status: Code, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Envelope:
    """One message of a stream, or its end (``is_end``)."""

    data: bytes
    is_end: bool = False


class EnvelopeParser:
    """Cuts a stream into envelopes as bytes arrive. Holds at most one message of ``max_bytes`` and the last bytes that were fed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Envelope]:
        """The envelopes that are complete now. Read all of them before the next ``feed``.

        Raises: InvalidRequestError (unknown flags), ConnectError (compressed; larger than the bound).
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            flags, length = _HEADER.unpack_from(self._buffer)
            self._check(flags, length)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Envelope(message, is_end=flags == _END)

    def finish(self) -> None:
        """Declare the end of the input.

        Raises: InvalidRequestError: the stream ended within an envelope.
        """
        if self._buffer:
            raise InvalidRequestError(f"The stream ended within a message: {len(self._buffer)} bytes are left over")

    def _check(self, flags: int, length: int) -> None:
        if flags & _COMPRESSED:
            raise ConnectError(Code.UNIMPLEMENTED, "Compressed messages are not supported by this server; send them as they are")
        if flags & ~_END:
            raise InvalidRequestError(f"The message has unknown envelope flags {flags:#x}")
        if length > self._max_bytes:
            raise too_large(self._max_bytes)


def too_large(max_bytes: int) -> ConnectError:
    """The error of a message beyond the bound: an invalid argument, since clients retry after ``resource_exhausted``."""
    return ConnectError(Code.INVALID_ARGUMENT, f"The message is larger than the {max_bytes} bytes that this server takes")


def encode_envelope(message: bytes) -> bytes:
    """A message in its envelope."""
    return _HEADER.pack(0, len(message)) + message


def encode_end(error: CloisterError | None = None) -> bytes:
    """The envelope that ends a stream, for either codec."""
    body = json.dumps({"error": error_object(error)} if error else {}).encode()
    return _HEADER.pack(_END, len(body)) + body


def error_object(error: CloisterError) -> dict[str, str]:
    """The JSON form of an error: the body of a failed unary call, and ``error`` of a stream's end."""
    return {"code": str(code_of(error)), "message": str(error)}


def code_of(error: CloisterError) -> Code:
    """The code that clients see for one of our errors."""
    if isinstance(error, ConnectError):
        return error.status
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.UNKNOWN)


def http_status(code: Code) -> int:
    """The HTTP status of a unary call that failed with ``code``."""
    return _STATUS.get(code, 500)


def codec_of(content_type: str, *, stream: bool) -> Codec | None:
    """The codec that a Content-Type names; None if it is not one of this protocol for this kind of method."""
    return (STREAM_TYPES if stream else UNARY_TYPES).get(content_type.partition(";")[0].strip().lower())


def refuse_compression(encoding: str | None) -> None:
    """Check Content-Encoding (unary) or Connect-Content-Encoding (stream).

    Raises: ConnectError: anything but identity.
    """
    if encoding and encoding.strip().lower() != "identity":
        raise ConnectError(Code.UNIMPLEMENTED, f"The encoding '{encoding}' is not supported by this server; supported: identity")


def parse_timeout_s(value: str | None) -> float | None:
    """Connect-Timeout-Ms in seconds; None if it is absent or zero, which official clients send for "no limit".

    Raises: InvalidRequestError.
    """
    if not value:
        return None
    if len(value) > _MAX_TIMEOUT_DIGITS or not value.isascii() or not value.isdigit():
        raise InvalidRequestError(f"The header Connect-Timeout-Ms must be a number of at most {_MAX_TIMEOUT_DIGITS} digits")
    return int(value) / 1000 or None
