"""Connections that the kernel let pass, as it tells of them when they end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.model.connection import ConnectionRecord, LookUp
from cloister.model.network import ALL_ADDRESSES, PUBLIC_EGRESS, EgressPolicy, HeaderRule
from cloister.network import connections
from cloister.network.slots import NetworkNode, SlotOwner
from framework.gate_lab import RecordedGate
from framework.network_lab import FAR, Lab, Namespace, can_connect, lab, running_node, send_datagram
from framework.waiting import eventually

pytestmark = pytest.mark.root

ONE = "203.0.113.9"
ONLY_ONE = EgressPolicy(public=True, allow=(f"{ONE}/32",), deny=(ALL_ADDRESSES,))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        found.far.run(f"ip address add {ONE}/32 dev far0")
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A running node on that host."""
    with running_node(made, gate=RecordedGate()) as found:
        yield found


def exchange(sandbox: Namespace, listener: socket.socket, address: str, sent: int, received: int) -> None:
    """Open a connection, send bytes both ways, close it."""
    with sandbox.open_socket() as client:
        client.connect((address, 8080))
        server = listener.accept()[0]
        client.sendall(bytes(sent))
        with server, server.makefile("rb") as at_server, client.makefile("rb") as at_client:
            assert len(at_server.read(sent)) == sent
            server.sendall(bytes(received))
            assert len(at_client.read(received)) == received


def test_a_connection_is_told_when_it_ends(made: Lab, node: NetworkNode) -> None:
    """With sandbox, destination, times, bytes both ways, and the entry that allowed it; those of the next sandbox are its own."""
    first, second = made.sandbox(), made.sandbox()
    node.attach(1, first.fd, PUBLIC_EGRESS, SlotOwner("first"))
    began = time.time()
    with made.far.listen("0.0.0.0") as listener:
        exchange(first, listener, FAR, 50_000, 1000)
        assert node.take_connections() == ([], 0), "it is told when the kernel forgets it"
        node.release(1)
        node.attach(1, second.fd, ONLY_ONE, SlotOwner("second"))
        exchange(second, listener, ONE, 10, 70_000)
        node.release(1)
    records, lost = node.take_connections()
    assert lost == 0
    assert [(one.sandbox_id, one.address, one.port, one.protocol, one.verdict, one.rule) for one in records] == [
        ("first", FAR, 8080, "tcp", "allowed", "public"),
        ("second", ONE, 8080, "tcp", "allowed", f"allowOut {ONE}/32"),
    ]
    assert [(one.sent_bytes > 50_000, one.received_bytes > 70_000) for one in records] == [(True, False), (False, True)]
    assert all(began - 1 <= one.at <= time.time() and one.duration_s is not None for one in records)
    assert node.take_connections() == ([], 0)


def test_a_connection_has_the_name_that_its_sandbox_looked_up(made: Lab, node: NetworkNode) -> None:
    """Marked as looked up. The next sandbox of the slot has none of it, and so has another sandbox."""
    first, second = made.sandbox(), made.sandbox()
    node.attach(1, first.fd, PUBLIC_EGRESS, SlotOwner("first"))
    node.note_look_ups([LookUp(str(node._plan.address(1)), time.time(), "api.example.com", (FAR,)), LookUp("999.0.0.1", 1, "x", (FAR,))])
    with made.far.listen("0.0.0.0") as listener:
        exchange(first, listener, FAR, 1, 1)
        exchange(first, listener, ONE, 1, 1)
        node.release(1)
        node.attach(1, second.fd, PUBLIC_EGRESS, SlotOwner("second"))
        exchange(second, listener, FAR, 1, 1)
        node.release(1)
    told = {(one.sandbox_id, one.address, one.name, one.is_looked_up) for one in node.take_connections()[0]}
    assert told == {("first", FAR, "api.example.com", True), ("first", ONE, None, False), ("second", FAR, None, False)}


def test_a_connection_that_a_change_cuts_is_told_under_its_own_policy(made: Lab, node: NetworkNode) -> None:
    """The record says what allowed it, not what cut it."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS, SlotOwner("one"))
    with made.far.listen("0.0.0.0"):
        assert can_connect(sandbox, FAR)
        node.set_egress(1, ONLY_ONE)
    (record,) = node.take_connections()[0]
    assert (record.address, record.rule) == (FAR, "public")


def test_questions_and_connections_of_the_egress_process_are_left_out(made: Lab, node: NetworkNode) -> None:
    """The egress process tells of its own."""
    sandbox = made.sandbox()
    rules = EgressPolicy(public=True, rules=(HeaderRule(host="example.com", headers={}),))
    node.attach(1, sandbox.fd, rules, SlotOwner("one"))
    udp, tcp = node.dns_sockets()
    listener, names = RecordedGate().listen(made.router(), node.gateway_address)
    with udp, tcp, listener, names:
        send_datagram(sandbox, node.gateway_address, 53)
        assert can_connect(sandbox, FAR, 443)
        send_datagram(sandbox, FAR, 9)
        node.release(1)
    assert [(one.protocol, one.port) for one in node.take_connections()[0]] == [("udp", 9)]


def test_a_sandbox_cannot_fill_the_record(made: Lab, node: NetworkNode) -> None:
    """Many connections are a few records whose counts add up, and those of a neighbour are told whole."""
    greedy, neighbour = made.sandbox(), made.sandbox()
    node.attach(1, greedy.fd, PUBLIC_EGRESS, SlotOwner("greedy"))
    node.attach(2, neighbour.fd, PUBLIC_EGRESS, SlotOwner("neighbour"))
    with greedy.open_socket(socket.SOCK_DGRAM) as sender:
        for port in range(1, 1001):
            try:
                sender.sendto(b"x", (FAR, port))
            except OSError:
                continue  # no program listens there
    send_datagram(neighbour, FAR, 5000)
    node.release(1)
    node.release(2)
    records, lost = node.take_connections()
    by_sandbox: dict[str, list[ConnectionRecord]] = {"greedy": [], "neighbour": []}
    for record in records:
        by_sandbox[record.sandbox_id].append(record)
    assert len(by_sandbox["greedy"]) <= 64 + 65
    assert sum(one.count for one in by_sandbox["greedy"]) + lost >= 500
    assert [(one.port, one.count) for one in by_sandbox["neighbour"]] == [(5000, 1)]


def test_lost_events_are_counted(made: Lab, node: NetworkNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that the kernel has no room for are a number."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS, SlotOwner("one"))
    router = node._router
    assert router is not None
    router.ended._socket.setsockopt(socket.SOL_SOCKET, 33, 4096)
    with sandbox.open_socket(socket.SOCK_DGRAM) as sender:
        for port in range(1, 101):
            try:
                sender.sendto(b"x", (FAR, port))
            except OSError:
                continue
    node.release(1)
    monkeypatch.setattr(connections, "_MOST_SINGLE", 1000)
    records, lost = node.take_connections()
    assert 0 < len(records) < 100
    assert lost >= 50
    assert node.take_connections() == ([], 0)


def test_connections_of_adopted_sandboxes_are_told(made: Lab) -> None:
    """Those that began before the supervisor's restart belong to the sandbox too."""
    with running_node(made) as dead, made.far.listen("0.0.0.0"):
        sandbox = made.sandbox()
        dead.attach(1, sandbox.fd, PUBLIC_EGRESS, SlotOwner("one"))
        assert can_connect(sandbox, FAR)
        dead.close()
        heir = made.node()
        heir.start()
        heir.attach(1, sandbox.fd, PUBLIC_EGRESS, SlotOwner("one"))
        heir.release(1)
        (record,) = eventually(lambda: heir.take_connections()[0])
        assert (record.sandbox_id, record.address) == ("one", FAR)
        heir.stop()
