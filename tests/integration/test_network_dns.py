"""The DNS relay on loopback, against upstreams that the test plays: what they get, what they may answer, and the bounds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from dnslib import RCODE, RR, A, DNSRecord

from cloister.errors import InvalidRequestError
from cloister.network import dns_exchange, dns_relay
from cloister.network.dns_exchange import QueryError, pass_on
from cloister.network.dns_relay import DnsRelay, host_nameservers
from cloister.network.dns_server import DnsLimits

Reply = Callable[[bytes, tuple[str, int], asyncio.DatagramTransport], None]


class _Upstream(asyncio.DatagramProtocol):
    """A resolver that keeps what it was asked and leaves the answer to the test."""

    def __init__(self, reply: Reply | None) -> None:
        self.asked: list[tuple[bytes, tuple[str, int]]] = []
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.append((data, addr))
        if self._reply:
            self._reply(data, addr, self.transport)

    @property
    def address(self) -> str:
        host, port = self.transport.get_extra_info("sockname")
        return f"{host}:{port}"


def _answer(query: bytes, address: str = "198.51.100.80") -> bytes:
    record = DNSRecord.parse(query)
    answer = record.reply()
    answer.add_answer(RR(record.q.qname, rdata=A(address)))
    return bytes(answer.pack())


def _honest(query: bytes, addr: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
    transport.sendto(_answer(query), addr)


@contextlib.asynccontextmanager
async def _upstream(reply: Reply | None) -> AsyncIterator[_Upstream]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Upstream(reply), local_addr=("127.0.0.1", 0))
    try:
        yield protocol
    finally:
        transport.close()


def _sockets_of_one_port() -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on 127.0.0.1 with the same port, which other programs of the host may have for one of the two."""
    for _ in range(200):
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
    raise AssertionError("no port is free for both UDP and TCP")


@contextlib.asynccontextmanager
async def _relay(*upstreams: str, limits: DnsLimits | None = None) -> AsyncIterator[tuple[str, int]]:
    """A relay on 127.0.0.1; gives its address, UDP and TCP."""
    udp, tcp = _sockets_of_one_port()
    relay = DnsRelay(udp, tcp, upstreams, limits)
    await relay.start()
    try:
        yield udp.getsockname()
    finally:
        await relay.stop()
        await relay.stop()


async def _ask(sock: socket.socket, relay: tuple[str, int], query: bytes) -> DNSRecord:
    await asyncio.get_running_loop().sock_sendto(sock, query, relay)
    async with asyncio.timeout(8):
        return DNSRecord.parse((await asyncio.get_running_loop().sock_recvfrom(sock, 4096))[0])


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """A client's UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        yield sock


async def test_each_question_travels_under_a_fresh_id_and_port(client: socket.socket) -> None:
    """Upstreams see neither the client's id nor one port twice, and the client gets its own id back."""
    async with _upstream(_honest) as upstream, _relay(upstream.address) as relay:
        query = DNSRecord.question("httpbin.org")
        for _ in range(8):
            answer = await _ask(client, relay, query.pack())
            assert (answer.header.id, str(answer.a.rdata)) == (query.header.id, "198.51.100.80")
    assert len({data[:2] for data, _ in upstream.asked}) > 4
    assert len({addr for _, addr in upstream.asked}) > 4


@pytest.mark.parametrize("forgery", ["other id", "other question", "no answer bit", "short", "other sender"])
async def test_answers_that_do_not_fit_are_ignored(client: socket.socket, forgery: str) -> None:
    """A wrong id, question or sender does not count; the true answer that comes later does."""

    def reply(query: bytes, addr: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        forged = _answer(query, "192.0.2.66")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            if forgery == "other sender":
                stranger.sendto(forged, addr)
        forgeries = {
            "other id": bytes([forged[0] ^ 1]) + forged[1:],
            "other question": forged.replace(b"httpbin", b"httpbon"),
            "no answer bit": forged[:2] + bytes([forged[2] & 0x7F]) + forged[3:],
            "short": forged[:11],
        }
        if forgery in forgeries:
            transport.sendto(forgeries[forgery], addr)
        transport.sendto(_answer(query), addr)

    async with _upstream(reply) as upstream, _relay(upstream.address) as relay:
        answer = await _ask(client, relay, DNSRecord.question("httpbin.org").pack())
    assert str(answer.a.rdata) == "198.51.100.80"


async def test_a_silent_upstream_is_passed_over(client: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next upstream answers after the time-out; with none left the client is told SERVFAIL with its own question."""
    monkeypatch.setattr(dns_relay, "LAST_S", 0.1)
    monkeypatch.setattr(dns_exchange, "NEXT_AFTER_S", 0.1)
    query = DNSRecord.question("httpbin.org").pack()
    async with _upstream(None) as silent, _upstream(_honest) as honest:
        async with _relay(silent.address, honest.address) as relay:
            assert (await _ask(client, relay, query)).header.rcode == RCODE.NOERROR
        async with _relay(silent.address) as relay:
            answer = await _ask(client, relay, query)
    assert (answer.header.rcode, str(answer.q.qname), answer.pack()[:2]) == (RCODE.SERVFAIL, "httpbin.org.", query[:2])


async def test_a_lost_datagram_is_sent_again(client: socket.socket) -> None:
    """A question that an upstream does not answer at first is sent again after a second."""
    lost: list[bytes] = []

    def reply(query: bytes, addr: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        if lost:
            transport.sendto(_answer(query), addr)
        else:
            lost.append(query)

    async with _upstream(reply) as upstream, _relay(upstream.address) as relay:
        answer = await _ask(client, relay, DNSRecord.question("httpbin.org").pack())
        assert answer.header.rcode == RCODE.NOERROR
        assert upstream.asked == [upstream.asked[0]] * 2


async def test_a_late_answer_counts_beside_those_of_later_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first upstream may answer after the others were asked; the third is asked at once when the second one fails."""
    monkeypatch.setattr(dns_exchange, "NEXT_AFTER_S", 0.1)
    all_asked = asyncio.Event()

    async def ask(upstream: tuple[str, int], query: bytes, _source: str | None) -> bytes:
        if upstream[0] == "second":
            raise QueryError("no answer")
        if upstream[0] == "third":
            all_asked.set()
            await asyncio.Event().wait()
        await all_asked.wait()
        return _answer(query)

    query = DNSRecord.question("httpbin.org").pack()
    answer = await pass_on(query, [((name, 53), None) for name in ("first", "second", "third")], ask, 5.0)
    assert (answer[:2], str(DNSRecord.parse(answer).a.rdata)) == (query[:2], "198.51.100.80")


async def test_questions_in_flight_are_bounded_for_a_client_and_in_all(client: socket.socket) -> None:
    """The question beyond a client's bound gets SERVFAIL at once. At the bound for all, the client with the most gives up its oldest."""
    query = DNSRecord.question("httpbin.org").pack()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.bind(("127.0.0.2", 0))
        async with _upstream(None) as silent, _relay(silent.address, limits=DnsLimits(queries_per_client=2, queries=3)) as relay:
            for sender, count, refused_one in ((client, 3, client), (other, 2, client), (other, 1, other)):
                for _ in range(count):
                    await asyncio.get_running_loop().sock_sendto(sender, query, relay)
                async with asyncio.timeout(20):
                    refused, _ = await asyncio.get_running_loop().sock_recvfrom(refused_one, 4096)
                assert DNSRecord.parse(refused).header.rcode == RCODE.SERVFAIL


async def test_what_is_no_question_is_dropped(client: socket.socket) -> None:
    """Garbage, answers and endless labels are neither passed on nor answered, and the relay goes on."""
    query = DNSRecord.question("httpbin.org").pack()
    async with _upstream(_honest) as upstream, _relay(upstream.address) as relay:
        for garbage in (
            b"",
            b"x",
            query[:12],
            _answer(query),
            query[:12] + b"\xc0\x0c" * 99,
            query[:4] + b"\xff\xff" + query[6:],
            bytes(5000),
        ):
            await asyncio.get_running_loop().sock_sendto(client, garbage, relay)
        assert (await _ask(client, relay, query)).header.rcode == RCODE.NOERROR
        assert len(upstream.asked) == 1


async def test_tcp_carries_several_questions_and_is_bounded() -> None:
    """One TCP connection serves question after question; connections beyond a client's bound are closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = _answer(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    query = DNSRecord.question("httpbin.org").pack()
    async with server, _relay(address, limits=DnsLimits(connections_per_client=1)) as relay:
        reader, writer = await asyncio.open_connection(*relay)
        for _ in range(3):
            writer.write(len(query).to_bytes(2, "big") + query)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            assert answer[:2] == query[:2]
            assert str(DNSRecord.parse(answer).a.rdata) == "198.51.100.80"
        second, closed = await asyncio.open_connection(*relay)
        assert await second.read() == b""
        writer.close()
        closed.close()


def test_resolv_conf_is_read(tmp_path: Path) -> None:
    """Of resolv.conf only resolvers count, and a relay needs one."""
    with socket.socket() as sock, pytest.raises(InvalidRequestError):
        DnsRelay(sock, sock, ())
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1 # here\nnameserver\n nameserver 2001:db8::1\noptions rotate\n"
    )
    assert host_nameservers(file) == ("192.0.2.1", "2001:db8::1")
    assert host_nameservers(tmp_path / "none") == ("127.0.0.1",)
