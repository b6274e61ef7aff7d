"""Sandboxes that are limited by the egress process: what they must not reach, name, keep or use up.

Without a kernel's redirection and without root: :mod:`framework.egress_lab`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from cloister.egress.connection import Connection
from cloister.model.network import ALL_ADDRESSES, EgressPolicy, HeaderRule
from framework.client_hello import client_hello
from framework.egress_lab import EgressLab, Guest, egress_lab, served
from framework.waiting import eventually_async

_WEB, _OTHER = "198.51.100.80", "198.51.100.81"
_NAMES = EgressPolicy(public=True, names=("good.example", "*.below.example"), deny=(ALL_ADDRESSES,))


def _hello(*extensions: bytes) -> bytes:
    """A ClientHello with these extensions."""
    listed = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack("!H", len(listed)) + listed
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(message)) + message


def _sni(*names: bytes) -> bytes:
    listed = b"".join(b"\0" + struct.pack("!H", len(name)) + name for name in names)
    data = struct.pack("!H", len(listed)) + listed
    return struct.pack("!HH", 0, len(data)) + data


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the same bytes, and end when the client does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b" end")
    writer.close()


@pytest.fixture
async def lab() -> AsyncIterator[EgressLab]:
    """A laboratory with an echo server for an address and a name."""
    async with egress_lab() as made, served(made, (_WEB, 443), _echo), served(made, ("good.example", 443), _echo):
        yield made


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        pytest.param(client_hello("evil.example"), f"denyOut {ALL_ADDRESSES}", id="another name"),
        pytest.param(client_hello("below.example"), f"denyOut {ALL_ADDRESSES}", id="the name above a wildcard"),
        pytest.param(client_hello(None), f"denyOut {ALL_ADDRESSES}", id="no name"),
        pytest.param(client_hello("good.example", ech=True), "encrypted_client_hello", id="an encrypted name"),
        pytest.param(_hello(_sni(b"good.example", b"evil.example")), "malformed_tls", id="two names"),
        pytest.param(_hello(_sni(b"evil.example"), _sni(b"good.example")), "malformed_tls", id="a repeated extension"),
        pytest.param(b"SSH-2.0-x\r\n", "malformed_tls", id="no TLS"),
    ],
)
async def test_sandbox_cannot_reach_a_name_that_is_not_allowed(lab: EgressLab, first: bytes, reason: str) -> None:
    """Without an allowed name that can be seen, a sandbox limited to names connects to nothing."""
    lab.put(_NAMES)
    guest = await lab.connect(_WEB, 443)
    await guest.send(first)
    assert await guest.is_reset()
    (record,) = await eventually_async(lab.take_records)
    assert (record.verdict, record.rule) == ("refused", reason)
    assert lab.dialled == []


async def test_sandbox_cannot_reach_a_private_address_or_another_port_by_a_name(lab: EgressLab) -> None:
    """A private destination is refused whatever name is asked for; at other ports names do not count."""
    lab.put(EgressPolicy(public=True, names=("*",), deny=(ALL_ADDRESSES,)))
    for address, port in (("10.0.0.1", 443), ("169.254.169.254", 80), (_WEB, 8443)):
        guest = await lab.connect(address, port)
        guest.writer.write(client_hello("good.example"))
        assert await guest.is_reset()
    rules = [record.rule for record in await eventually_async(lab.take_records)]
    assert rules == ["not_public", "not_public", f"denyOut {ALL_ADDRESSES}"]


async def test_forgotten_sandbox_cannot_connect(lab: EgressLab) -> None:
    """Connections from an address that the supervisor did not name are closed, and so are those of a forgotten sandbox."""
    lab.put(EgressPolicy(public=True, names=("x",)))
    lab.policies.forget("127.0.0.5")
    for source in ("127.0.0.5", "127.0.0.6"):
        assert await (await lab.connect(_WEB, 443, source)).is_reset()
    assert lab.dialled == []


async def test_sandbox_cannot_keep_a_connection_that_a_new_policy_refuses(lab: EgressLab) -> None:
    """A live connection ends with the policy that allowed it; one that the new policy allows goes on."""
    lab.put(_NAMES)
    by_name, by_address = await lab.connect(_OTHER, 443), await lab.connect(_WEB, 443)
    hello = client_hello("good.example")
    await by_name.send(hello)
    await by_name.reader.readexactly(len(hello))
    await by_address.send(hello)
    await by_address.reader.readexactly(len(hello))
    lab.put(EgressPolicy(public=True, names=("good.example", "more.example"), deny=(ALL_ADDRESSES,)))
    for guest in (by_name, by_address):
        await guest.send(b"more")
        assert await guest.reader.readexactly(4) == b"more"
    lab.put(EgressPolicy(public=True, names=("more.example",), deny=(ALL_ADDRESSES,)))
    assert await by_name.is_reset()
    assert await by_address.is_reset()


async def test_former_sandbox_cannot_keep_a_connection(lab: EgressLab) -> None:
    """Connections end with their sandbox, though its successor has the same address and policy."""
    policy = EgressPolicy(public=False, allow=(f"{_WEB}/32",))
    lab.put(policy)
    guest = await lab.connect(_WEB, 443)
    await guest.send(b"x")
    await guest.reader.readexactly(1)
    lab.put(policy, "sbx2")
    assert await guest.is_reset()


async def test_sandbox_cannot_have_more_connections() -> None:
    """Connections beyond the bound are reset and recorded; a connection that ends makes room."""
    async with egress_lab(per_sandbox=2) as lab, served(lab, (_WEB, 25), _echo):
        lab.put(EgressPolicy(public=False, allow=(f"{_WEB}/32",)))
        kept = [await lab.connect(_WEB, 25) for _ in range(2)]
        for guest in kept:
            await guest.send(b"x")
            await guest.reader.readexactly(1)
        assert await (await lab.connect(_WEB, 25)).is_reset()
        assert [record.rule for record in await eventually_async(lab.take_records)] == ["too_many_connections"]
        kept[0].writer.close()
        await eventually_async(lab.take_records)
        guest = await lab.connect(_WEB, 25)
        await guest.send(b"x")
        assert await guest.reader.readexactly(1) == b"x"


class _Holding:
    """An interceptor that keeps each connection."""

    async def intercept(self, connection: Connection) -> None:
        """See :class:`Interceptor`."""
        await connection.client.write(b"x")
        await asyncio.Event().wait()


async def test_sandbox_cannot_have_more_intercepted_connections() -> None:
    """They cost more, so their bound is lower; other connections are not hurt."""
    rule = HeaderRule(host="*.example", headers={"a": "b"})
    async with egress_lab(_Holding(), intercepted_per_sandbox=2) as lab, served(lab, (_WEB, 443), _echo):
        lab.put(EgressPolicy(public=True, rules=(rule,)))
        for number in range(3):
            guest = await lab.connect(_WEB, 443)
            await guest.send(client_hello("api.example"))
            assert await guest.is_reset() == (number == 2)
        assert [record.rule for record in await eventually_async(lab.take_records)] == ["too_many_connections"]
        other = await lab.connect(_WEB, 443)
        await other.send(client_hello("other.test"))
        assert await other.reader.readexactly(4) == client_hello("other.test")[:4]


async def _serve_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of HTTP/1.1 without a body with its own head."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head) + head)


def _request(host: str, path: str = "/", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


async def _answer(guest: Guest) -> bytes:
    head = await guest.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return await guest.reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(_request("evil.example"), id="another host"),
        pytest.param(_request("x.below.example"), id="another allowed host"),
        pytest.param(_request("good.example", "http://evil.example/"), id="another absolute URI"),
        pytest.param(_request("good.example", more="Host: evil.example\r\n"), id="two hosts"),
        pytest.param(_request("good.example", more="X: y\r\n Host: evil.example\r\n"), id="a folded line"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n", id="a tunnel"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
    ],
)
async def test_sandbox_cannot_name_another_host_later(second: bytes) -> None:
    """Nothing of it reaches the server, and the sandbox gets no answer to it."""
    async with egress_lab() as lab, served(lab, ("good.example", 80), _serve_requests):
        lab.put(_NAMES)
        guest = await lab.connect(_WEB, 80)
        await guest.send(_request("good.example"))
        await _answer(guest)
        await guest.send(second)
        assert await guest.is_reset()
        (record,) = await eventually_async(lab.take_records)
        assert record.verdict == "refused"
        assert len(lab.dialled) == 1
