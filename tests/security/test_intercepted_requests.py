"""Attacks of a sandbox on the interceptor, and of upstreams: a secret goes to its own host alone, and no request is read in two ways.

The interceptor runs in this process, between sockets of loopback: these tests need no root.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from framework.intercept_lab import HOST, KEY, FakeValues, ScriptedUpstream, ask, get, known_values, open_lab, server_context

OK = ScriptedUpstream.OK


async def test_a_sandbox_cannot_upgrade_to_a_protocol_that_is_not_checked(tmp_path: Path) -> None:
    """An h2c upgrade would leave requests unchecked, so the upstream does not see the wish."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        request = get("Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        request = request.replace(b"Connection: close", b"Connection: close, Upgrade, HTTP2-Settings")
        await ask(await lab.connect(), request)
    assert b"h2c" not in upstream.received
    assert b"pgrade" not in upstream.received
    assert b"HTTP2" not in upstream.received


REFUSED = {
    "another host": (421, get().replace(HOST.encode(), b"evil.example.net")),
    "another port": (421, get().replace(HOST.encode(), HOST.encode() + b":8443")),
    "a host with user": (400, get().replace(b"Host: ", b"Host: evil@")),
    "two hosts": (400, get(f"Host: {HOST}")),
    "no host": (400, b"GET / HTTP/1.0\r\n\r\n"),
    "absolute target of another host": (421, get(target="https://evil.example.net/")),
    "absolute target with user": (400, get(target=f"https://{HOST}@evil.example.net/")),
    "absolute target without TLS": (421, get(target=f"http://{HOST}/")),
    "two lengths": (400, get("Content-Length: 3", "Content-Length: 4", method="POST")),
    "length and coding": (400, get("Content-Length: 3", "Transfer-Encoding: chunked", method="POST")),
    "unknown coding": (501, get("Transfer-Encoding: xchunked", method="POST")),
    "two codings": (501, get("Transfer-Encoding: gzip, chunked", method="POST")),
    "signed length": (400, get("Content-Length: +3", method="POST")),
    "bare LF": (400, get("X-A: 1").replace(b"X-A: 1\r\n", b"X-A: 1\n")),
    "bare CR": (400, get("X-A: 1\rX-B: 2")),
    "NUL": (400, get("X-A: \0")),
    "folded line": (400, get("X-A: 1", " Transfer-Encoding: chunked")),
    "space before colon": (400, get("Transfer-Encoding : chunked")),
    "CONNECT": (405, get(method="CONNECT", target="evil.example.net:443")),
    "TRACE": (405, get(method="TRACE")),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "long head": (431, get("X-A: " + "a" * 70_000)[:-4]),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_sandbox_cannot_send_a_request_that_servers_read_differently(tmp_path: Path, case: str) -> None:
    """Nothing of it reaches the upstream, and the guest gets a clear status."""
    status, request = REFUSED[case]
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        answer = await ask(await lab.connect(), request)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"cloister: " in answer
    assert upstream.received == b""
    assert KEY.encode() not in answer


async def test_a_sandbox_cannot_name_another_host_in_a_second_request(tmp_path: Path) -> None:
    """The first request of a connection earns the next one nothing."""
    upstream = ScriptedUpstream(OK, OK)
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        alive = get().replace(b"Connection: close\r\n", b"")
        answer = await ask(await lab.connect(), alive + get().replace(HOST.encode(), b"evil.example.net"))
    assert b"HTTP/1.1 421 " in answer
    assert b"evil" not in upstream.received


async def test_a_sandbox_cannot_bring_back_a_header_by_a_trailer(tmp_path: Path) -> None:
    """A server may merge trailers into the headers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.received += await reader.readuntil(b"0\r\n")
        upstream.received += await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()

    upstream = ScriptedUpstream()
    async with open_lab(serve, server_context(tmp_path), values=known_values()) as lab:
        body = b"3\r\nabc\r\n0\r\nAuthorization: mine\r\nX-Kept: 1\r\n\r\n"
        await ask(await lab.connect(), get("Transfer-Encoding: chunked", method="POST") + body)
    assert b"mine" not in upstream.received
    assert b"X-Kept: 1" in upstream.received


@pytest.mark.parametrize("value", ["sk-1234\n", "a\r\nX-Injected: 1", "a\0b", "k\u0100" * 9000])
async def test_a_secret_cannot_add_headers(tmp_path: Path, value: str) -> None:
    """Line ends in a secret would make more headers of it."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), values=FakeValues({"key": value})) as lab:
        answer = await ask(await lab.connect(), get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert value.strip().encode() not in answer
    assert upstream.received == b""


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection", "X A", "X-A:", ""])
async def test_a_rule_cannot_set_a_header_that_frames_or_routes(tmp_path: Path, name: str) -> None:
    """The request is refused: the rule cannot be followed."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), headers={name: "evil.example.net"}) as lab:
        answer = await ask(await lab.connect(), get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert upstream.received == b""


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [({"authority": "unknown"}, "unable to get local issuer"), ({"name": "evil.example.net"}, "mismatch")],
)
async def test_an_upstream_cannot_get_a_secret_without_a_valid_certificate(tmp_path: Path, certificate: dict[str, Any], reason: str) -> None:
    """The guest reads why."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path, **certificate), values=known_values()) as lab:
        answer = await ask(await lab.connect(), get())
        verdict = lab.connections[0].verdict
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert reason.encode() in answer
    assert upstream.received == b""
    assert verdict is not None
    assert not verdict.is_allowed
    assert verdict.rule == "untrusted_certificate"


async def test_a_copy_cannot_use_the_authority_of_its_original(tmp_path: Path) -> None:
    """A copy with its own id does not trust the original's authority."""
    async with open_lab(ScriptedUpstream(), server_context(tmp_path), values=known_values()) as lab:
        with pytest.raises(ssl.SSLCertVerificationError):
            await lab.connect(sandbox_id="sandbox-b")
