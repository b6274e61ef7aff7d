"""The reader of forms: whatever the pieces in which a body arrives, the parts are the same."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from cloister.agent.transfer.form import FormReader, boundary_of
from cloister.errors import InvalidRequestError

_BOUNDARY = b"b" * 30


def read(body: bytes, boundary: bytes, cuts: list[int], *, skip: bool = False) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a body that arrives cut at ``cuts``."""
    edges = [0, *sorted(cuts), len(body)]
    arriving = [body[start:end] for start, end in itertools.pairwise(edges) if end > start]
    arriving.reverse()

    async def pull() -> bytes:
        return arriving.pop() if arriving else b""

    async def run() -> list[tuple[dict[str, str], bytes]]:
        form = FormReader(pull, boundary)
        parts = []
        while (headers := await form.next()) is not None:
            parts.append((headers, b"" if skip else b"".join([bytes(piece) async for piece in form.pieces()])))
        return parts

    return asyncio.run(run())


def form_of(parts: list[tuple[str, bytes]], boundary: bytes = _BOUNDARY) -> bytes:
    """A body as clients write it."""
    whole = b"".join(b"--" + boundary + b"\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return whole + b"--" + boundary + b"--\r\n"


def test_any_cut() -> None:
    """Parts that hold what looks like boundaries, whole and begun, come out unchanged, wherever the body is cut."""
    chance = random.Random(1)
    alphabet = [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n-", b"\r\n--", b"\r\n--b", b"\r\n--" + b"b" * 29, b"b", b"x", b"\0"]
    for _ in range(600):
        datas = [b"".join(chance.choices(alphabet, k=chance.randrange(20))) for _ in range(chance.randrange(1, 4))]
        parts = [(f"{number}", data) for number, data in enumerate(datas) if b"\r\n--" + _BOUNDARY not in b"\r\n" + data]
        body = form_of(parts)
        cuts = [chance.randrange(len(body)) for _ in range(chance.randrange(30))]
        wanted = [({"content-disposition": head}, data) for head, data in parts]
        assert read(body, _BOUNDARY, cuts) == wanted
        assert read(body, _BOUNDARY, list(range(len(body)))) == wanted
        assert [head for head, _ in read(body, _BOUNDARY, cuts, skip=True)] == [head for head, _ in wanted]


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"--b--", []),
        (b"ignored\r\n--b--and ignored", []),
        (b"--b\r\n\r\ndata\r\n--b--", [({}, b"data")]),
        (b"--b \t\r\nA: 1\r\n\r\n\r\n--b--", [({"a": "1"}, b"")]),
        (b"--b\r\nA: 1\r\n\r\n--b--", [({"a": "1"}, b"")]),
        (b"--b\r\nA: 1\r\n 2\r\nb:3\r\nB: 4\r\n\r\n\r\n\r\n--b--", [({"a": "1 2", "b": "3"}, b"\r\n")]),
        (b"--b\r\nA: \xc3\xa9\r\n\r\nx--b\n\r\n--b--", [({"a": "é"}, b"x--b\n")]),
    ],
)
def test_forms(body: bytes, parts: list[tuple[dict[str, str], bytes]]) -> None:
    """Preambles, empty parts, parts without headers, folded headers."""
    assert read(body, b"b", []) == parts
    assert read(body, b"b", list(range(len(body)))) == parts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b-",
        b"--b\r\nA: 1",
        b"--b\r\nA: 1\r\n\r\ndata",
        b"--b\r\nA: 1\r\n\r\ndata\r\n--b",
        b"--b\r\nA: 1\r\n\r\ndata\r\n--bb--",
        b"--b\r\nno header\r\n\r\n\r\n--b--",
        b"--b\r\n: 1\r\n\r\n\r\n--b--",
        b"--b\r\nA: " + b"x" * 70_000 + b"\r\n\r\n\r\n--b--",
        b"--b" + b" " * 70_000 + b"\r\n\r\n\r\n--b--",
    ],
)
def test_malformed_forms(body: bytes) -> None:
    """A body that is no form, or not a whole one, is an error and never a shorter form."""
    with pytest.raises(InvalidRequestError, match="the form is malformed"):
        read(body, b"b", list(range(0, len(body), 1000)))


def test_a_false_boundary_ends_no_part() -> None:
    """The bytes of a part end only behind a boundary that is one: a line that merely begins as it does is an error before that."""

    async def run() -> None:
        body = [b"", b"--b\r\n\r\ndata\r\n--bogus\r\n--b--"]

        async def pull() -> bytes:
            return body.pop()

        form = FormReader(pull, b"b")
        await form.next()
        pieces = form.pieces()
        assert bytes(await anext(pieces)) == b"data"
        with pytest.raises(InvalidRequestError):
            await anext(pieces)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; Boundary="a b;c"', b"a b;c"),
        ("multipart/form-data;boundary=----WebKitFormBoundary1; x=y", b"----WebKitFormBoundary1"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ("multipart/form-data; boundary=" + "x" * 71, None),
    ],
)
def test_boundaries(header: str, boundary: bytes | None) -> None:
    """The boundary is what the header names, plain or quoted."""
    if boundary is not None:
        assert boundary_of(header) == boundary
        return
    with pytest.raises(InvalidRequestError):
        boundary_of(header)
