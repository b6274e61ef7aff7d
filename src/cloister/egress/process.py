"""The egress process's parts, put together. ``cloister.processes.egress`` prepares the process itself."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from ipaddress import IPv4Address

from cloister.egress.connection import Interceptor
from cloister.egress.dialing import RACES, Dialer
from cloister.egress.dns_front import DnsFront, Notes
from cloister.egress.gateway import TOTAL, Gateway, Parts
from cloister.egress.lookup import Lookup
from cloister.egress.policies import PolicyTable
from cloister.egress.records import RecordBuffer
from cloister.egress.socks import SocksDialer
from cloister.egress.supervision import Supervision
from cloister.egresswire.link import Begin
from cloister.network.gate import DNS_PORT, TCP_PORT

__all__ = ["MakeInterceptor", "run"]

MakeInterceptor = Callable[[Begin], Interceptor | None]
_BACKLOG = 1024
_OTHER_DESCRIPTORS = 4096
"""For questions in flight, connections to the api process, and what the interpreter opens."""


async def run(link: socket.socket, make_interceptor: MakeInterceptor) -> None:
    """Serve until the supervisor ends. Raises: InvalidRequestError: a message that cannot be read."""
    supervision = await Supervision.open(link)
    with contextlib.suppress(EOFError, ConnectionError):
        begin = await supervision.begin()
        records = RecordBuffer()
        notes = Notes(records)
        policies = PolicyTable(begin.private)
        lookup = Lookup(policies, begin.gateway)
        dialer = Dialer(lookup.resolve, SocksDialer(begin.certificates))
        parts = Parts(policies, dialer.open, records, make_interceptor(begin), begin.inspects, total=_room())

        async def serve() -> None:
            gateway = Gateway(_bound(begin.gateway, TCP_PORT, socket.SOCK_STREAM), parts)
            sockets = (_bound(begin.gateway, DNS_PORT, socket.SOCK_DGRAM), _bound(begin.gateway, DNS_PORT, socket.SOCK_STREAM))
            await DnsFront(sockets, policies, lookup, notes).start()
            gateway.start()

        reporting = asyncio.create_task(supervision.report(records, notes.look_ups))
        try:
            await supervision.follow(policies, serve)
        finally:
            reporting.cancel()


def _room() -> int:
    """The connections that this process has descriptors for: each has two, and there are others."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(TOTAL, max(most // 4, (most - RACES - _OTHER_DESCRIPTORS) // 2))


def _bound(gateway: IPv4Address, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket on the gateway address; a TCP socket listens."""
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((str(gateway), port))
    if kind == socket.SOCK_STREAM:
        sock.listen(_BACKLOG)
    return sock
