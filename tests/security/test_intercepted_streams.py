"""Attacks of a sandbox on the interceptor by HTTP/2: other hosts in streams of one connection, and floods.

The interceptor runs in this process, between sockets of loopback: these tests need no root.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes

from framework.http2_peer import Http2Peer, Http2Server, echo, head, opened_http2


async def test_a_sandbox_cannot_coalesce_hosts_on_one_connection(tmp_path: Path) -> None:
    """Coalescing is not possible; other streams of the connection go on."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve) as (_, guest):
        refused = await guest.ask(authority=b"evil.example.net")
        fine = await guest.ask(stream_id=3)
        await guest.wait(lambda: refused.has_ended and fine.has_ended)
        assert refused.header(b":status") == [b"421"]
        assert fine.header(b":status") == [b"200"]
        assert len(serve.peers[0].streams) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"authority": b"user@api.example.com"}, b"400"),
        ({"authority": b"api.example.com:8443"}, b"421"),
        ({"scheme": b"http"}, b"421"),
        ({"path": b"https://evil.example.net/"}, b"421"),
        ({"path": b"x"}, b"400"),
        ({"path": b"/a b"}, b"400"),
        ({"method": b"TRACE"}, b"405"),
    ],
)
async def test_a_sandbox_cannot_send_a_stream_that_servers_read_differently(tmp_path: Path, changes: dict[str, Any], status: bytes) -> None:
    """Nothing of it reaches the upstream."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve) as (_, guest):
        seen = await guest.ask(**changes)
        await guest.wait(lambda: seen.has_ended)
        assert seen.header(b":status") == [status]
        assert serve.peers[0].streams == {}


async def test_a_sandbox_cannot_open_a_tunnel_by_connect(tmp_path: Path) -> None:
    """A tunnel through the upstream would leave what is in it unchecked."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve) as (_, guest):
        seen = await guest.ask(method=b"CONNECT", scheme=b"", path=b"", ends=False)
        await guest.wait(lambda: bool(seen.headers) or seen.reset is not None or guest.ended is not None)
        assert seen.header(b":status") in ([b"405"], [])
        assert serve.peers[0].streams == {}


def _resets(guest: Http2Peer) -> None:
    for number in range(3, 2 * 450, 2):
        guest.connection.send_headers(number, head(), end_stream=True)
        guest.connection.reset_stream(number)


def _pings(guest: Http2Peer) -> None:
    for _ in range(6000):
        guest.connection.ping(b"12345678")


def _settings(guest: Http2Peer) -> None:
    for _ in range(6000):
        guest.connection.update_settings({3: 10})


def _continuations(guest: Http2Peer) -> None:
    guest.writer.write(b"\0\0\x01\x01\0\0\0\0\x03\x82" + b"\0\0\x01\x09\0\0\0\0\x03\x86" * 50)


def _empty_data(guest: Http2Peer) -> None:
    guest.connection.send_headers(3, head())
    for _ in range(6000):
        guest.connection.send_data(3, b"")


@pytest.mark.parametrize("flood", [_resets, _pings, _settings, _continuations, _empty_data])
async def test_a_sandbox_cannot_flood_the_interceptor_with_frames(tmp_path: Path, flood: Callable[[Http2Peer], None]) -> None:
    """With ENHANCE_YOUR_CALM."""
    async with opened_http2(tmp_path, Http2Server(echo)) as (_, guest):
        first = await guest.ask()
        await guest.wait(lambda: first.has_ended)
        with contextlib.suppress(ConnectionError):
            flood(guest)
            await guest.flush()
        await guest.wait(lambda: guest.is_closed)
        assert guest.ended is None or guest.ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM


async def test_a_sandbox_cannot_send_headers_that_unpack_to_too_much(tmp_path: Path) -> None:
    """An HPACK bomb: one indexed header, named thousands of times."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve) as (_, guest):
        await guest.ask(*[(b"x-long", b"a" * 4000)] * 200)
        await guest.wait(lambda: guest.is_closed or guest.ended is not None)
        assert serve.peers[0].streams == {}


async def test_a_sandbox_cannot_fill_the_interceptor_with_a_body(tmp_path: Path) -> None:
    """No more than a stream's window is held for it."""
    serve = Http2Server(lambda _peer, _event: None, acknowledges=False)
    async with opened_http2(tmp_path, serve) as (_, guest):
        await guest.ask(method=b"POST", ends=False)
        await guest.wait(lambda: guest.connection.local_flow_control_window(1) > 65_535)
        sent = 0
        while sent <= 1 << 20:
            try:
                await guest.wait(lambda: guest.connection.local_flow_control_window(1) >= 1000, timeout_s=1)
            except TimeoutError:
                break
            guest.connection.send_data(1, b"x" * 1000)
            sent += 1000
            await guest.flush()
        assert sent <= (256 << 10) + 65_535 + 1000
