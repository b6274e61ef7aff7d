"""Envelopes, codes and headers of the Connect protocol."""

from __future__ import annotations

import json
import random

import pytest

from cloister.errors import (
    AlreadyExistsError,
    AuthenticationError,
    CloisterError,
    ConflictError,
    ContextNotFoundError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    RateLimitedError,
)
from cloister.protocol.connect import (
    Code,
    Codec,
    ConnectError,
    Envelope,
    EnvelopeParser,
    code_of,
    codec_of,
    encode_end,
    encode_envelope,
    error_object,
    http_status,
    parse_timeout_s,
    refuse_compression,
)


def feed(parser: EnvelopeParser, data: bytes, sizes: list[int]) -> list[Envelope]:
    """The envelopes of ``data``, fed in pieces of these sizes, again and again."""
    found, at, turn = [], 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        found += list(parser.feed(piece))
        at, turn = at + len(piece), turn + 1
    return found


@pytest.mark.parametrize("seed", range(50))
def test_envelopes_survive_any_cut(seed: int) -> None:
    """However a stream is cut, the same messages come out, and nothing is left."""
    chance = random.Random(seed)
    messages = [chance.randbytes(chance.choice([0, 1, 5, 100, 5000])) for _ in range(20)]
    data = b"".join(map(encode_envelope, messages)) + encode_end()
    parser = EnvelopeParser(5000)
    found = feed(parser, data, [chance.randint(1, 300) for _ in range(7)])
    assert [one.data for one in found] == [*messages, b"{}"]
    assert [one.is_end for one in found] == [False] * 20 + [True]
    parser.finish()


@pytest.mark.parametrize("seed", range(200))
def test_garbage_is_an_error_or_messages(seed: int) -> None:
    """Random bytes give messages within the bound or one of our errors, never anything else."""
    chance = random.Random(seed)
    data = bytearray(chance.randbytes(chance.randint(0, 60)))
    if chance.random() < 0.7:
        data[:4] = bytes([chance.choice([0, 0, 2]), 0, 0, 0])
    parser = EnvelopeParser(40)
    fault: CloisterError | None = None
    try:
        assert all(len(one.data) <= 40 for one in feed(parser, bytes(data), [chance.randint(1, 20)]))
        parser.finish()
    except CloisterError as error:
        fault = error
    assert fault is None or code_of(fault) in {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED}


def test_bounds() -> None:
    """A message beyond the bound is refused by its head alone; a compressed and an unfinished one are refused too."""
    with pytest.raises(ConnectError, match="larger than the 10 bytes") as refused:
        list(EnvelopeParser(10).feed(b"\0\0\0\0\x0b"))
    assert refused.value.status is Code.INVALID_ARGUMENT
    with pytest.raises(ConnectError, match="Compressed") as refused:
        list(EnvelopeParser(10).feed(b"\1\0\0\0\1x"))
    assert refused.value.status is Code.UNIMPLEMENTED
    parser = EnvelopeParser(10)
    assert list(parser.feed(b"\0\0\0\0\x05ab")) == []
    with pytest.raises(InvalidRequestError, match="within a message"):
        parser.finish()


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidRequestError("m"), "invalid_argument", 400),
        (AuthenticationError("m"), "unauthenticated", 401),
        (ContextNotFoundError("m"), "not_found", 404),
        (AlreadyExistsError("m"), "already_exists", 409),
        (ConflictError("m"), "failed_precondition", 400),
        (RateLimitedError("m"), "resource_exhausted", 429),
        (DeadlineError("m"), "deadline_exceeded", 504),
        (InternalError("m"), "internal", 500),
        (ConnectError(Code.UNIMPLEMENTED, "m"), "unimplemented", 501),
        (CloisterError("m"), "unknown", 500),
    ],
)
def test_errors(error: CloisterError, code: str, status: int) -> None:
    """Each of our errors has its code, its HTTP status, and one shape in unary answers and at the end of a stream."""
    assert error_object(error) == {"code": code, "message": "m"}
    assert http_status(code_of(error)) == status
    assert json.loads(encode_end(error)[5:]) == {"error": {"code": code, "message": "m"}}


def test_headers() -> None:
    """Content types name codecs, time limits are bounded numbers, and only what is not compressed is taken."""
    assert codec_of("application/json; charset=utf-8", stream=False) is Codec.JSON
    assert codec_of("Application/Connect+Proto", stream=True) is Codec.PROTO
    assert codec_of("application/json", stream=True) is None
    assert codec_of("application/grpc", stream=False) is None
    assert [parse_timeout_s(value) for value in (None, "", "0", "1500")] == [None, None, None, 1.5]
    for wrong in ("-1", "1.5", "x", "12345678901", "٣"):
        with pytest.raises(InvalidRequestError):
            parse_timeout_s(wrong)
    refuse_compression(None)
    refuse_compression("identity")
    with pytest.raises(ConnectError, match="gzip"):
        refuse_compression("gzip")
