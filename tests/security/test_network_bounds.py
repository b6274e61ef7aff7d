"""Packets, new connections and volume of one sandbox are bounded, and a neighbour is not part of it. In a laboratory."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloister.model.network import PUBLIC_EGRESS
from cloister.network.bounds import TrafficBounds
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, Lab, Namespace, can_connect, disable_rule, lab, next_datagram, running_node

pytestmark = pytest.mark.root

_SO_RCVBUFFORCE = 33
_PACKET = bytes(1000)
_FLOOD = 3000
_BURST = 200


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


def _received(receiver: socket.socket) -> int:
    """Datagrams that have arrived."""
    count = 0
    while next_datagram(receiver, 0.2) is not None:
        count += 1
    return count


def _sink(made: Lab) -> socket.socket:
    sink = made.far.open_socket(socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
    sink.bind((FAR, 9000))
    return sink


def _send(origin: Namespace, count: int, ports: int = 1) -> int:
    """Send datagrams from one socket, or each from one of its own; returns how many were taken."""
    taken = 0
    for _ in range(ports):
        with origin.open_socket(socket.SOCK_DGRAM) as sock:
            for _ in range(count // ports):
                try:
                    taken += bool(sock.sendto(_PACKET, (FAR, 9000)))
                except OSError:
                    continue  # the refusal of an earlier one
    return taken


def _reasons(node: NetworkNode) -> set[tuple[int, str]]:
    return {(one.slot, one.target.reason) for one in node.take_refusals() if one.target}


def test_sandbox_cannot_send_more_packets_than_its_bound(made: Lab) -> None:
    """Of a flood about the bound arrives; a neighbour's packet arrives; the log has the reason."""
    with running_node(made, bounds=TrafficBounds(packets_per_s=_BURST)) as node, _sink(made) as sink:
        attacker, neighbour = made.sandbox(), made.sandbox()
        node.attach(1, attacker.fd, PUBLIC_EGRESS)
        node.attach(2, neighbour.fd, PUBLIC_EGRESS)
        _send(attacker, _FLOOD)
        assert _BURST <= _received(sink) < _FLOOD / 2
        _send(neighbour, 1)
        assert _received(sink) == 1
        assert _reasons(node) == {(1, "too_many_packets")}
        disable_rule(made.router(), "cloister", "packet-rate")
        _send(attacker, _FLOOD)
        assert _received(sink) == _FLOOD, "the flood is no faster than the bound: the test proves nothing"


def test_sandbox_cannot_open_connections_faster_than_its_bound(made: Lab) -> None:
    """Beyond the bound new ones are refused, with a reason. A stream of packets without answers is one connection."""
    with running_node(made, bounds=TrafficBounds(connections_per_s=_BURST // 4)) as node, _sink(made) as sink:
        attacker, neighbour = made.sandbox(), made.sandbox()
        node.attach(1, attacker.fd, PUBLIC_EGRESS)
        node.attach(2, neighbour.fd, PUBLIC_EGRESS)
        _send(neighbour, _FLOOD)
        assert _received(sink) == _FLOOD
        _send(attacker, 900, 900)
        assert _BURST <= _received(sink) < 800
        _send(neighbour, 1)
        assert _received(sink) == 1
        assert _reasons(node) == {(1, "too_many_new_connections")}
        disable_rule(made.router(), "cloister", "connection-rate")
        _send(attacker, 900, 900)
        assert _received(sink) == 900, "connections are no faster than the bound: the test proves nothing"


def test_sandbox_cannot_exceed_its_volume(made: Lab) -> None:
    """Packets of both directions use it up. Then none passes, in any connection; the next sandbox of the slot has its own."""
    with running_node(made, bounds=TrafficBounds(volume_mib=1)) as node, _sink(made) as sink, made.far.listen(FAR):
        attacker, neighbour, heir = made.sandbox(), made.sandbox(), made.sandbox()
        node.attach(1, attacker.fd, PUBLIC_EGRESS)
        node.attach(2, neighbour.fd, PUBLIC_EGRESS)
        with attacker.open_socket(socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            asking.sendto(_PACKET, (FAR, 9000))
            _, asker = sink.recvfrom(2000)
            for _ in range(600):
                sink.sendto(_PACKET, asker)
            assert _received(asking) == 600
            _send(attacker, 600)
            assert 300 < _received(sink) < 500
            sink.sendto(_PACKET, asker)
            assert next_datagram(asking) is None
        connects = partial(can_connect, timeout_s=0.3)
        assert not connects(attacker, FAR)
        assert connects(neighbour, FAR)
        assert _reasons(node) == {(1, "volume_used_up")}
        node.release(1)
        node.attach(1, heir.fd, PUBLIC_EGRESS)
        assert connects(heir, FAR)
        _send(heir, 1200)
        assert not connects(heir, FAR)
        disable_rule(made.router(), "cloister", "volume")
        disable_rule(made.router(), "cloister", "volume-inward")
        assert connects(heir, FAR)
