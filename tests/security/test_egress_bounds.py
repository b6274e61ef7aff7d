"""Sandboxes that use the egress process's memory or time, or reach denied addresses by a header rule."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from cloister.egress.connection import Connection, DialError, Upstream
from cloister.egress.dialing import Dialer
from cloister.egress.intercept import http1
from cloister.egress.intercept.contexts import UpstreamContexts
from cloister.egress.intercept.http2_side import Side
from cloister.egress.pace import HANDSHAKES_AT_ONCE, HANDSHAKES_PER_S, PIECE, Pace
from cloister.egress.policies import PolicyTable
from cloister.egress.socks import SocksDialer
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge, Verdict
from cloister.model.network import EgressPolicy, EgressProxy, HeaderRule
from cloister.network.dns_messages import is_query
from framework.intercept_lab import HOST, ScriptedUpstream, ask, get, known_values, open_lab, server_context

LOOPBACK = (IPv4Network("127.0.0.0/8"),)
RULE = HeaderRule(host="*", headers={"X-Key": "v"})
STAYS = get().replace(b"Connection: close\r\n", b"")
CHOSEN, RESOLVED = "127.0.0.2", "127.0.0.3"


class Resets:
    """A stream that notes its end."""

    def __init__(self) -> None:
        self.is_reset = False

    def abort(self) -> None:
        """See :class:`ByteStream`."""
        self.is_reset = True


def _connection(policy: EgressPolicy, port: int) -> Connection:
    """An allowed connection to the address that the sandbox chose, with a header rule."""
    judge = Judge(policy, LOOPBACK)
    verdict = judge.judge(IPv4Address(CHOSEN), port, HOST)
    assert verdict.is_allowed
    client = cast("ByteStream", Resets())
    return Connection("sbx", "127.0.0.5", (CHOSEN, port), client, lambda: judge, name=HOST, verdict=verdict, rule=RULE)


async def _resolve(_source: str, _name: str) -> Sequence[IPv4Address]:
    return [IPv4Address(RESOLVED)]


@pytest.mark.parametrize("proxy", [None, EgressProxy(address="127.0.0.4:1")])
@pytest.mark.parametrize("lists", [{"public": False, "allow": (f"{CHOSEN}/32",)}, {"public": True, "deny": (f"{RESOLVED}/32",)}])
async def test_sandbox_cannot_reach_a_denied_address_by_a_header_rule(lists: dict[str, Any], proxy: EgressProxy | None) -> None:
    """The name of a rule leads to an address that the lists deny, though the sandbox connects to one that they allow."""
    policy = EgressPolicy(**lists, rules=(RULE,), proxy=proxy)
    with pytest.raises(DialError) as caught:
        await Dialer(_resolve, SocksDialer()).open(_connection(policy, 443))
    assert caught.value.reason == "address_not_allowed"


async def test_a_header_rule_leads_to_an_allowed_address() -> None:
    """By the lists or by the name."""
    listener = socket.create_server((RESOLVED, 443))
    with listener:
        for policy in (EgressPolicy(public=True), EgressPolicy(public=False, allow=(f"{CHOSEN}/32",), names=(HOST,))):
            upstream = await Dialer(_resolve, SocksDialer()).open(_connection(policy, 443))
            assert upstream.address == RESOLVED
            upstream.stream.abort()


@pytest.mark.parametrize("address", [RESOLVED, ""])
def test_sandbox_cannot_keep_a_header_rules_connection_to_a_denied_address(address: str) -> None:
    """A change that denies the address where the name led, or where that is not known, ends it."""
    policies = PolicyTable(LOOPBACK)
    policies.put("127.0.0.5", "sbx", EgressPolicy(public=True, rules=(RULE,)))
    admitted = policies.find("127.0.0.5")
    assert admitted is not None
    connection = _connection(admitted.policy, 443)
    connection.verdict = Verdict(is_allowed=True, rule="public")
    connection.upstream = Upstream(cast("ByteStream", Resets()), address)
    admitted.connections.add(connection)
    policies.put("127.0.0.5", "sbx", EgressPolicy(public=True, rules=(RULE,), names=("other.example",)))
    assert not cast("Resets", connection.client).is_reset
    policies.put("127.0.0.5", "sbx", EgressPolicy(public=True, rules=(RULE,), deny=(f"{RESOLVED}/32",)))
    assert cast("Resets", connection.client).is_reset


async def test_sandbox_cannot_make_a_context_for_each_list_of_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts with all authorities are large and are kept, so a repeated protocol makes no other one."""
    asked = set[tuple[str, ...]]()
    context = UpstreamContexts.context

    def noted(self: UpstreamContexts, protocols: tuple[str, ...]) -> ssl.SSLContext:
        asked.add(protocols)
        return context(self, protocols)

    monkeypatch.setattr(UpstreamContexts, "context", noted)
    async with open_lab(ScriptedUpstream(), server_context(tmp_path), values=known_values()) as lab:
        for count in range(1, 6):
            peer = await lab.connect(protocols=("http/1.1", *["h2"] * count, "http/1.1"))
            assert (await ask(peer, get())).endswith(b"ok")
    assert asked == {("http/1.1", "h2")}


async def test_peer_cannot_make_us_remember_its_headers() -> None:
    """A peer that wants a table of 2 GiB, again and again, gets one of the usual size, and reads all headers."""
    peer = H2Connection(H2Configuration(client_side=True, header_encoding=False))
    side = Side(cast("Any", None), is_guest=True)
    side.begin()
    peer.initiate_connection()
    for size in [1 << 31, 100, 1 << 31] * 20:
        peer.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
        side.receive(peer.data_to_send())
    peer.receive_data(side.connection.data_to_send())
    for number in range(50):
        stream_id = peer.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/")]
        peer.send_headers(stream_id, fields, end_stream=True)
        side.receive(peer.data_to_send())
        unique = (b"x-unique", b"%d" % number * 500)
        side.connection.send_headers(stream_id, [(b":status", b"200"), unique], end_stream=True)
        found = peer.receive_data(side.connection.data_to_send())
        (answer,) = (event for event in found if isinstance(event, events.ResponseReceived))
        assert unique in answer.headers
    table = side.connection.encoder.header_table
    assert sum(len(name) + len(value) for name, value in table.dynamic_entries) <= 4096


async def test_guest_cannot_make_us_read_a_head_again_for_each_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work for a head is that of its bytes, also if they come one by one."""
    read = 0
    pattern = http1._MISREAD

    class Counting:
        def search(self, data: bytes, begin: int = 0) -> re.Match[bytes] | None:
            nonlocal read
            read += len(data) - begin
            return pattern.search(data, begin)

    monkeypatch.setattr(http1, "_MISREAD", Counting())
    async with open_lab(ScriptedUpstream(ScriptedUpstream.OK, ScriptedUpstream.OK), None, values=known_values()) as lab:
        reader, writer = await lab.connect_plain()
        writer.write(STAYS)
        await reader.readuntil(b"ok")
        second = get("X-Long: " + "a" * 2000).replace(b"Connection: close\r\n", b"")
        for byte in second:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.0001)
        await reader.readuntil(b"ok")
        writer.close()
    assert read < 20 * len(second)


@pytest.mark.parametrize("fault", ["\n", "\r", "\n folded", "\0"])
async def test_misread_characters_are_found_across_parts(fault: str) -> None:
    """Wherever a head is split."""
    head = STAYS.replace(b"\r\n\r\n", b"\r\nX: y" + fault.encode() + b"z\r\n\r\n")
    for split in range(len(head) - 9 - len(fault), len(head)):
        upstream = ScriptedUpstream(ScriptedUpstream.OK, ScriptedUpstream.OK)
        async with open_lab(upstream, None, values=known_values()) as lab:
            reader, writer = await lab.connect_plain()
            writer.write(STAYS)
            await reader.readuntil(b"ok")
            writer.write(head[:split])
            await asyncio.sleep(0.001)
            writer.write(head[split:])
            assert b" 400 " in await reader.readuntil(b"\r\n")
            writer.close()
        assert b"X: y" not in upstream.received


async def test_small_parts_of_a_body_leave_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks have come at once, others get their turn after a few."""
    turns = 0
    turn = Pace.turn

    async def counted(self: Pace) -> None:
        nonlocal turns
        turns += 1
        await turn(self)

    monkeypatch.setattr(Pace, "turn", counted)
    chunks = 4000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(ScriptedUpstream.OK)
        writer.close()

    async with open_lab(serve, None, values=known_values()) as lab:
        request = get("Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
        assert (await ask(await lab.connect_plain(), request)).endswith(b"ok")
    assert turns >= chunks // PIECE


async def test_connections_of_a_sandbox_take_turns() -> None:
    """A round of the event loop has one or two of them, however many connections wait."""
    pace, rounds, done = Pace(), 0, list[int]()

    async def work() -> None:
        for _ in range(10):
            await pace.turn()
            done.append(rounds)

    tasks = [asyncio.create_task(work()) for _ in range(20)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        rounds += 1
    assert max(map(done.count, range(rounds + 1))) <= 2


async def test_sandbox_cannot_take_the_process_by_handshakes() -> None:
    """A hundred begin at once, further ones at the rate; a pause gives no more than the hundred again."""
    now = 1000.0
    pace = Pace(lambda: now)
    assert max(pace.reserve_handshake() for _ in range(HANDSHAKES_AT_ONCE)) < 0.001
    waits = [pace.reserve_handshake() for _ in range(HANDSHAKES_PER_S)]
    assert waits == pytest.approx([number / HANDSHAKES_PER_S for number in range(1, HANDSHAKES_PER_S + 1)], abs=0.001)
    now += 3600.0
    assert sum(pace.reserve_handshake() < 0.001 for _ in range(2 * HANDSHAKES_AT_ONCE)) == HANDSHAKES_AT_ONCE


async def test_guest_gets_less_room_on_each_further_connection() -> None:
    """A connection without wide windows holds 64 KiB of all streams together."""

    def room(*, is_wide: bool) -> int:
        side, peer = Side(cast("Any", None), is_guest=True), H2Connection(H2Configuration(client_side=True))
        side.begin(is_wide=is_wide)
        peer.initiate_connection()
        peer.receive_data(side.connection.data_to_send())
        return peer.outbound_flow_control_window

    assert (room(is_wide=True), room(is_wide=False)) == (4 << 20, 65_535)


async def test_a_program_that_speaks_http_1_0_is_served() -> None:
    """Its request goes on in version 1.1, and the answer ends with the connection."""
    async with open_lab(ScriptedUpstream(), None, values=known_values()) as lab:
        answer = await ask(await lab.connect_plain(), get().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert answer.endswith(b"ok")


@pytest.mark.parametrize(("questions", "is_good"), [(1, True), (100, True), (900, False), (13_000, False)])
def test_sandbox_cannot_ask_thousands_of_questions_at_once(questions: int, is_good: bool) -> None:
    """One message over TCP would take the resolver's time from others."""
    message = struct.pack("!6H", 1, 0x100, questions, 0, 0, 0) + b"\0\0\1\0\1" * questions
    assert is_query(message) == is_good
