"""A DNS front with its lookups and a resolver, on loopback, in the test's own event loop, without root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

from cloister.egress.dns_front import DnsFront, Notes
from cloister.egress.lookup import Lookup
from cloister.egress.policies import Admitted, PolicyTable
from cloister.egress.records import RecordBuffer
from cloister.model.network import EgressPolicy

__all__ = ["OTHER", "SANDBOX", "DnsFrontLab", "PretendResolver", "dns_front_lab"]

SANDBOX, OTHER = "127.0.0.5", "127.0.0.6"
"""Addresses of sandboxes."""
_RESOLVER = "127.0.0.1"


class PretendResolver(asyncio.DatagramProtocol):
    """A resolver whose answers a test sets; ``fault`` is what it gets wrong."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.ttl, self.fault = 60, ""
        self.silent = "silent.example"
        """It does not answer questions for names that end so."""
        self.asked: list[tuple[str, str, str]] = []
        """Name, type and client of each question."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question."""
        request = DNSRecord.parse(data)
        name = str(request.q.qname).rstrip(".")
        self.asked.append((name, str(QTYPE.get(request.q.qtype)), addr[0]))
        if name.endswith(self.silent):
            return
        reply = request.reply()
        if name not in self.addresses:
            reply.header.rcode = RCODE.NXDOMAIN
        for address in self.addresses.get(name, ()):
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=self.ttl))
        if self.fault == "id":
            reply.header.id ^= 1
        if self.fault == "question":
            reply.q.qname = "elsewhere.example"
        self.transport.sendto(bytes(reply.pack()), addr)


@dataclass
class DnsFrontLab:
    """The laboratory; ``front`` is where the front listens."""

    resolver: PretendResolver
    resolver_port: int
    lookup: Lookup
    front: tuple[str, int]
    policies: PolicyTable = field(default_factory=PolicyTable)
    records: RecordBuffer = field(default_factory=RecordBuffer)

    def put(self, policy: EgressPolicy, address: str = SANDBOX) -> Admitted:
        """Let the sandbox at ``address`` follow ``policy``."""
        self.policies.put(address, f"sandbox of {address}", policy)
        admitted = self.policies.find(address)
        assert admitted is not None
        return admitted

    async def ask(self, name: str, kind: str = "A", *, source: str = SANDBOX, tcp: bool = False) -> DNSRecord:
        """The front's answer to a question of the sandbox at ``source``."""
        query = bytes(DNSRecord.question(name, kind).pack())
        if tcp:
            reader, writer = await asyncio.open_connection(*self.front, local_addr=(source, 0))
            writer.write(len(query).to_bytes(2, "big") + query)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            writer.close()
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.bind((source, 0))
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, self.front)
                await loop.sock_sendall(sock, query)
                answer = await asyncio.wait_for(loop.sock_recv(sock, 4096), 10)
        assert answer[:2] == query[:2]
        return DNSRecord.parse(answer)

    async def addresses(self, name: str, kind: str = "A") -> list[str]:
        """The data of the answer's records."""
        return [str(record.rdata) for record in (await self.ask(name, kind)).rr]


@contextlib.asynccontextmanager
async def dns_front_lab() -> AsyncIterator[DnsFrontLab]:
    """A front, its lookups, and a resolver; private addresses of 127.0.0.0/8 are allowed."""
    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(PretendResolver, local_addr=(_RESOLVER, 0))
    policies = PolicyTable((IPv4Network("127.0.0.0/8"),))
    resolver_port = transport.get_extra_info("sockname")[1]
    lookup = Lookup(policies, IPv4Address(_RESOLVER), resolver_port)
    records = RecordBuffer()
    tcp = socket.create_server((_RESOLVER, 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    for sock in (tcp, udp):
        sock.setblocking(False)
    front = DnsFront((udp, tcp), policies, lookup, Notes(records))
    await front.start()
    try:
        yield DnsFrontLab(resolver, resolver_port, lookup, tcp.getsockname(), policies, records)
    finally:
        await front.stop()
        transport.close()
