"""Names that no resolver answers keep no other sandbox, and no other team, from looking up names. Without root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

from dnslib import RCODE, DNSRecord

from cloister.egress.lookup import PER_SANDBOX, TOTAL
from cloister.model.network import ALL_ADDRESSES, EgressPolicy
from cloister.network.dns_relay import DnsRelay
from cloister.network.dns_server import DnsLimits
from cloister.processes import api_proxies
from cloister.processes.api_proxies import AddressLookup
from framework.dns_front_lab import DnsFrontLab, dns_front_lab
from framework.waiting import eventually_async

_GOOD = "good.example"
_ANY = EgressPolicy(public=True, names=("*",), deny=(ALL_ADDRESSES,))


@contextlib.asynccontextmanager
async def _laboratory() -> AsyncIterator[DnsFrontLab]:
    async with dns_front_lab() as lab:
        lab.resolver.addresses = {_GOOD: ("198.51.100.7",)}
        yield lab


@contextlib.asynccontextmanager
async def _flood(lab: DnsFrontLab, clients: int, questions: int) -> AsyncIterator[None]:
    """So many questions without an answer from each of so many addresses, 127.0.1.1 and so on, all on their way to the resolver."""
    with contextlib.ExitStack() as held:
        for client in range(clients):
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.1.{client + 1}", 0))
            for number in range(questions):
                sock.sendto(bytes(DNSRecord.question(f"n{number}.of{client}.silent.example").pack()), lab.front)
            await eventually_async(partial(_has_heard, lab, (client + 1) * questions))
        yield


def _has_heard(lab: DnsFrontLab, questions: int) -> bool:
    return len({name for name, *_ in lab.resolver.asked}) >= questions


async def test_sandboxes_cannot_keep_another_from_looking_up_names() -> None:
    """Questions of 16 sandboxes fill the relay's bound for all; the next sandbox's question is answered."""
    limits = DnsLimits(queries_per_client=8, queries=128)
    async with _laboratory() as lab:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(tcp.getsockname())
        relay = DnsRelay(udp, tcp, (f"127.0.0.1:{lab.resolver_port}",), limits)
        await relay.start()
        lab.front = udp.getsockname()
        try:
            async with _flood(lab, 16, 8):
                assert (await lab.ask(_GOOD)).header.rcode == RCODE.NOERROR
        finally:
            await relay.stop()


async def test_sandboxes_with_names_cannot_keep_another_from_looking_up_names() -> None:
    """The same in the egress process, where the answers are pinned."""
    clients = TOTAL // PER_SANDBOX
    async with _laboratory() as lab:
        lab.put(_ANY)
        for client in range(clients):
            lab.put(_ANY, f"127.0.1.{client + 1}")
        async with _flood(lab, clients, PER_SANDBOX):
            assert await lab.addresses(_GOOD) == ["198.51.100.7"]


async def test_teams_cannot_keep_another_from_naming_a_proxy() -> None:
    """Look-ups of 16 teams fill the bound for all; the next team's is answered, and those that are given up end without an address."""
    teams = api_proxies._AT_ONCE // api_proxies._AT_ONCE_OF_USER
    async with _laboratory() as lab:
        lookup = AddressLookup((f"127.0.0.1:{lab.resolver_port}",))
        silent = [
            asyncio.create_task(lookup.find(f"n{number}.silent.example", f"team{team}"))
            for team in range(teams)
            for number in range(api_proxies._AT_ONCE_OF_USER + 2)
        ]
        await eventually_async(lambda: len(lab.resolver.asked) >= api_proxies._AT_ONCE)
        try:
            assert len(await lookup.find(_GOOD, "another")) == 1
            assert not any(task.done() and task.result() for task in silent)
        finally:
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)
