"""Random bytes against the interceptor's parsers: each input ends in frames, an answer, or a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from cloister.egress.intercept.http2_frames import PREFACE, FloodError, FrameSplitter
from framework.http2_peer import Http2Server, echo, head
from framework.intercept_lab import HOST, InterceptLab, Peer, ScriptedUpstream, known_values, open_lab, server_context

ROUNDS = 60
_PIECES = (
    b"GET / HTTP/1.1\r\n", f"Host: {HOST}\r\n".encode(), b"Host: evil.example\r\n", b"\r\n", b"\n", b"\r", b" ", b":", b"\0", b"\xff",
    b"Content-Length: 5\r\n", b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"POST http://api.example.com/ HTTP/1.1\r\n", b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"a" * 5000, b"HTTP/1.0\r\n",
)  # fmt: skip


async def _end(peer: Peer, data: bytes) -> None:
    """Send, say that no more comes, and read until the end."""
    reader, writer = peer
    with contextlib.suppress(OSError):
        writer.write(data)
        writer.write_eof() if writer.can_write_eof() else writer.close()
        async with asyncio.timeout(20):
            await reader.read()
    writer.close()


async def _settled(lab: InterceptLab) -> None:
    async with asyncio.timeout(20):
        while lab.tasks:
            await asyncio.wait(lab.tasks)
    assert all(isinstance(error, OSError) for error in lab.errors), lab.errors


@pytest.mark.parametrize("seed", range(4))
async def test_pieces_of_requests_in_any_order(seed: int) -> None:
    """No request for another host reaches the upstream, and nothing but an OSError ends a connection."""
    choose = random.Random(seed)
    upstream = ScriptedUpstream(*[ScriptedUpstream.OK] * 3)
    async with open_lab(upstream, None, values=known_values()) as lab:
        for _ in range(ROUNDS):
            pieces = [_PIECES[0], _PIECES[1], *choose.choices(_PIECES, k=choose.randrange(12)), b"\r\n"]
            with contextlib.suppress(ConnectionError):
                await _end(await lab.connect_plain(), b"".join(pieces))
        await _settled(lab)
    assert b"evil.example" not in upstream.received


@pytest.mark.parametrize("seed", range(4))
async def test_changed_frames(tmp_path: Path, seed: int) -> None:
    """A stream of HTTP/2 with some bytes changed."""
    from h2.connection import H2Connection

    choose = random.Random(seed)
    serve = Http2Server(echo)
    async with open_lab(serve, server_context(tmp_path, protocols=("h2",)), values=known_values()) as lab:
        for _ in range(ROUNDS // 3):
            guest = H2Connection()
            guest.initiate_connection()
            for number in (1, 3, 5):
                guest.send_headers(number, [(name.decode(), value.decode()) for name, value in head()])
                guest.send_data(number, choose.randbytes(50), end_stream=True)
            data = bytearray(guest.data_to_send())
            for _ in range(choose.randrange(1, 5)):
                data[choose.randrange(len(PREFACE), len(data))] = choose.randrange(256)
            with contextlib.suppress(OSError):
                await _end(await lab.connect(protocols=("h2",)), bytes(data))
        await _settled(lab)
    for peer in serve.peers:
        assert all(HOST.encode() in seen.header(b":authority") for seen in peer.streams.values() if seen.headers)


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_whole_in_any_pieces(seed: int) -> None:
    """However the bytes are cut, the same frames come, or the same refusal."""
    choose = random.Random(seed)
    data = PREFACE + b"".join(
        choose.choice((0, 5, 300)).to_bytes(3, "big") + bytes([choose.randrange(12), 0]) + choose.randbytes(4) + choose.randbytes(300)
        for _ in range(30)
    )

    def split(sizes: list[int]) -> list[bytes]:
        splitter, found, at = FrameSplitter(has_preface=True, clock=lambda: 0.0), list[bytes](), 0
        with contextlib.suppress(FloodError):
            for size in [*sizes, len(data)]:
                for frame in splitter.feed(data[at : at + size]):
                    found.append(frame.data)
                at += size
        return found

    whole = split([len(data)])
    assert b"".join(whole) == data[: sum(map(len, whole))]
    assert split([choose.randrange(1, 40) for _ in range(200)]) == whole
