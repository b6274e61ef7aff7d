"""Sandboxes that open, ask and wait for everything that the egress process has: a neighbour still gets through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ipaddress import IPv4Address
from pathlib import Path

from cloister.egress.connection import Connection, DialError
from cloister.egress.dialing import connect
from cloister.egress.intercept.values_client import ValuesClient
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge
from cloister.egresswire.values import parse_request, render_answer
from cloister.model.network import PUBLIC_EGRESS, EgressPolicy, HeaderRule
from cloister.network.limits import FairBound
from framework.client_hello import client_hello
from framework.egress_lab import EgressLab, Guest, egress_lab, served
from framework.waiting import eventually_async

_WEB, _NEIGHBOUR = "198.51.100.80", "127.0.0.6"
_ALLOWED = EgressPolicy(public=False, allow=(f"{_WEB}/32",))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _open(lab: EgressLab, port: int, count: int, first: bytes, source: str = "127.0.0.5") -> list[Guest]:
    """That many connections, each of which has been answered."""
    guests = []
    for _ in range(count):
        guests.append(await lab.connect(_WEB, port, source))
        await guests[-1].send(first)
        await guests[-1].reader.readexactly(1)
    return guests


async def test_sandbox_cannot_keep_a_neighbour_from_connecting() -> None:
    """It holds all connections that the process may have. A neighbour's take the place of its oldest, down to the same number."""
    async with egress_lab(per_sandbox=6, total=6) as lab, served(lab, (_WEB, 25), _echo):
        lab.put(_ALLOWED)
        lab.put(_ALLOWED, "neighbour", _NEIGHBOUR)
        hostile = await _open(lab, 25, 6, b"x")
        neighbours = await _open(lab, 25, 3, b"x", _NEIGHBOUR)
        assert [await guest.is_reset() for guest in hostile[:3]] == [True] * 3
        records = lab.take_records()
        assert [(record.sandbox_id, record.verdict, record.rule) for record in records] == [("sbx", "refused", "too_many_connections")] * 3
        for again in (await lab.connect(_WEB, 25), await lab.connect(_WEB, 25, _NEIGHBOUR)):  # both have half of all
            assert await again.is_reset()
        for guest in hostile[3:] + neighbours:
            await guest.send(b"y")
            assert await guest.reader.readexactly(1) == b"y"


class _Holding:
    """An interceptor that keeps each connection."""

    async def intercept(self, connection: Connection) -> None:
        """See :class:`Interceptor`."""
        await connection.client.write(b"x")
        await asyncio.Event().wait()


async def test_sandbox_cannot_keep_a_neighbours_requests_from_being_read() -> None:
    """It holds all connections whose requests are read, and one of them ends for its neighbour's."""
    policy = EgressPolicy(public=True, rules=(HeaderRule(host="*.example", headers={"a": "b"}),))
    async with egress_lab(_Holding(), intercepted=4) as lab:
        lab.put(policy)
        lab.put(policy, "neighbour", _NEIGHBOUR)
        hostile = await _open(lab, 443, 4, client_hello("api.example"))
        await _open(lab, 443, 1, client_hello("api.example"), _NEIGHBOUR)
        assert await hostile[0].is_reset()


async def test_sandbox_cannot_keep_a_neighbour_from_the_values_of_secrets(tmp_path: Path) -> None:
    """A hundred of its requests wait for the api process, and a neighbour's is asked for next."""
    asked, writers, go_on = list[str](), list[asyncio.StreamWriter](), asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while line := await reader.readline():
            asked.append(parse_request(line).sandbox_id)
            await go_on.acquire()
            writer.write(render_answer(("v",)))

    path = tmp_path / "values.sock"
    server = await asyncio.start_unix_server(serve, path)
    client = ValuesClient(path)
    hostile = [asyncio.create_task(client.values("hostile", f"{number}.example", ("t",))) for number in range(100)]
    await eventually_async(lambda: len(asked) == 4)
    neighbours = asyncio.create_task(client.values("neighbour", "api.example", ("t",)))
    await asyncio.sleep(0)
    go_on.release()
    go_on.release()
    await eventually_async(lambda: len(asked) == 6)
    assert "neighbour" in asked[4:]
    for _ in hostile:
        go_on.release()
    assert await neighbours == ("v",)
    await asyncio.gather(*hostile)
    client.close()
    server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_sandbox_cannot_try_all_addresses_at_once() -> None:
    """A name with eight silent addresses costs it one descriptor for each connection, and a neighbour may still try two."""
    with socket.create_server(("0.0.0.0", 0), backlog=0) as silent, contextlib.ExitStack() as held:
        port = silent.getsockname()[1]
        for _ in range(3):  # its queue is full: further connections get no answer
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        races = FairBound(4, 6)
        addresses = [IPv4Address("127.0.0.10") + number for number in range(8)]

        def dial(source: str, addresses: list[IPv4Address]) -> asyncio.Task[object]:
            inside, outside = socket.socketpair()
            held.enter_context(inside)
            held.enter_context(outside)
            connection = Connection("sandbox", source, (str(addresses[0]), port), ByteStream(inside), lambda: Judge(PUBLIC_EGRESS))
            return asyncio.create_task(connect(addresses, port, connection, races))

        before = _descriptors()
        tasks = [dial(source, addresses) for source in ("10.0.0.1", "10.0.0.2") for _ in range(5)]
        await asyncio.sleep(1)  # time for three more of each connection's addresses
        opened = _descriptors() - before - 2 * len(tasks)
        assert opened <= len(tasks) + 6
        neighbours = dial("10.0.0.3", addresses[:2])
        await eventually_async(lambda: races._uses.get("10.0.0.3"))
        for task in (*tasks, neighbours):
            task.cancel()
        results = await asyncio.gather(*tasks, neighbours, return_exceptions=True)
        assert not [result for result in results if isinstance(result, DialError)]
