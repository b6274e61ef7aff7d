"""The gateway judges each connection and passes it on: by address or by name, both ways, within bounds, until its policy ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloister.egress.connection import Connection
from cloister.model.network import ALL_ADDRESSES, EgressPolicy, HeaderRule
from framework.client_hello import client_hello
from framework.egress_lab import EgressLab, Guest, egress_lab, served
from framework.waiting import eventually_async

_WEB, _OTHER = "198.51.100.80", "198.51.100.81"
_NAMES = EgressPolicy(public=True, names=("good.example", "*.below.example"), deny=(ALL_ADDRESSES,))


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


async def test_an_allowed_address_passes_with_half_close(lab: EgressLab) -> None:
    """Bytes pass both ways, an end is passed on as one, and the record has their number."""
    lab.put(EgressPolicy(public=False, allow=(f"{_WEB}/32",)))
    guest = await lab.connect(_WEB, 443)
    await guest.send(b"hello")
    assert await guest.reader.readexactly(5) == b"hello"
    guest.writer.write_eof()
    assert await guest.reader.read() == b" end"
    (record,) = await eventually_async(lab.take_records)
    assert (record.verdict, record.rule, record.address, record.port, record.name) == ("allowed", f"allowOut {_WEB}/32", _WEB, 443, None)
    assert (record.sent_bytes, record.received_bytes, record.sandbox_id) == (5, 9, "sbx")


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (EgressPolicy(public=False, names=("other.example",)), "no_internet"),
        (EgressPolicy(public=True, names=("other.example",), deny=("198.51.100.0/24",)), "denyOut 198.51.100.0/24"),
    ],
)
async def test_a_refused_connection_is_reset_without_a_byte(lab: EgressLab, policy: EgressPolicy, rule: str) -> None:
    """A connection that no part of the policy allows is closed, never answered, and recorded with its reason and name."""
    lab.put(policy)
    guest = await lab.connect(_WEB, 443)
    await guest.send(client_hello("good.example"))
    assert await guest.is_reset()
    (record,) = await eventually_async(lab.take_records)
    assert (record.verdict, record.rule, record.name) == ("refused", rule, "good.example")
    assert lab.dialled == []


async def test_an_allowed_name_goes_to_what_it_resolves_to(lab: EgressLab) -> None:
    """The address that a program chose for an allowed name does not matter, and the ClientHello arrives whole."""
    lab.put(_NAMES)
    hello = client_hello("good.example")
    guest = await lab.connect(_OTHER, 443)
    for at in range(0, len(hello), 100):
        await guest.send(hello[at : at + 100])
    assert await guest.reader.readexactly(len(hello)) == hello
    assert lab.dialled == [("good.example", 443)]


async def test_a_slow_receiver_holds_back_the_sender(lab: EgressLab) -> None:
    """Bytes are not lost or reordered when a side reads late, and the gateway keeps one buffer at most."""
    lab.put(EgressPolicy(public=False, allow=(f"{_WEB}/32",)))
    guest = await lab.connect(_WEB, 443)
    data = bytes(range(256)) * 64 * 1024  # 16 MiB, more than all kernel buffers on the way
    sending = asyncio.create_task(guest.send(data))
    await asyncio.sleep(0)
    assert not sending.done()
    assert await guest.reader.readexactly(len(data)) == data
    await sending


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


async def test_requests_of_an_allowed_host_pass() -> None:
    """Requests of one connection pass, whatever address it goes to; a host may have the port in it."""
    async with egress_lab() as lab, served(lab, ("good.example", 80), _serve_requests):
        lab.put(_NAMES)
        guest = await lab.connect(_OTHER, 80)
        for host in ("good.example", "GOOD.example:80"):
            await guest.send(_request(host, "/x"))
            assert (await _answer(guest)).startswith(b"GET /x HTTP/1.1\r\n")
        assert lab.dialled == [("good.example", 80)]


class _Recording:
    """An interceptor that passes nothing on."""

    def __init__(self) -> None:
        self.seen: list[Connection] = []

    async def intercept(self, connection: Connection) -> None:
        self.seen.append(connection)
        await connection.client.write(b"intercepted")
        await asyncio.Event().wait()


async def test_a_host_with_a_header_rule_is_intercepted() -> None:
    """The interceptor gets connections of hosts with rules, and is cut when the rule changes; others pass by it."""
    interceptor, rule = _Recording(), HeaderRule(host="*.example", headers={"a": "b"})
    async with egress_lab(interceptor) as lab, served(lab, (_WEB, 443), _echo):
        lab.put(EgressPolicy(public=True, rules=(rule,)))
        guest, other = await lab.connect(_WEB, 443), await lab.connect(_WEB, 443)
        await guest.send(client_hello("api.example", ech=True))
        assert await guest.reader.readexactly(11) == b"intercepted"
        await other.send(client_hello("other.test"))
        assert await other.reader.readexactly(4) == client_hello("other.test")[:4]
        (connection,) = interceptor.seen
        assert (connection.name, connection.is_tls, connection.rule) == ("api.example", True, rule)
        lab.put(EgressPolicy(public=True, rules=(HeaderRule(host="*.example", headers={"a": "c"}),)))
        assert await guest.is_reset()
        await other.send(b"x")


async def test_a_host_whose_rule_has_no_headers_is_not_intercepted() -> None:
    """An empty rule hides a wildcard's headers, and leaves the connections of its host alone."""
    interceptor = _Recording()
    rules = (HeaderRule(host="*.example", headers={"a": "b"}), HeaderRule(host="plain.example", headers={}))
    async with egress_lab(interceptor) as lab, served(lab, (_WEB, 443), _echo):
        lab.put(EgressPolicy(public=True, rules=rules))
        guest = await lab.connect(_WEB, 443)
        await guest.send(client_hello("plain.example"))
        assert await guest.reader.readexactly(4) == client_hello("plain.example")[:4]
        assert interceptor.seen == []


async def test_a_rule_without_an_interceptor_is_refused() -> None:
    """A connection that should get headers does not leave without them."""
    async with egress_lab() as lab, served(lab, ("api.example", 443), _echo):
        lab.put(EgressPolicy(public=True, rules=(HeaderRule(host="api.example", headers={"a": "b"}),)))
        guest = await lab.connect(_WEB, 443)
        await guest.send(client_hello("api.example"))
        assert await guest.is_reset()
        assert lab.dialled == []


async def test_a_request_that_comes_with_its_large_body_passes() -> None:
    """More than the bound of a head has come before the first look, and the head is short."""
    request = b"POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 30000\r\nConnection: close\r\n\r\n" + bytes(30_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(request)) == request
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with egress_lab() as lab, served(lab, ("good.example", 80), serve):
        lab.put(EgressPolicy(public=False, names=("good.example",)))
        guest = await lab.connect("192.0.2.1", 80)
        guest.writer.write(request)  # at once
        assert (await guest.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 204")
