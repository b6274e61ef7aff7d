"""The rate of one sandbox's traffic is bounded each way, and a neighbour is not part of it. In a laboratory: nothing leaves the machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.model.network import PUBLIC_EGRESS
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, Lab, Namespace, disable_rule, lab, running_node

pytestmark = [pytest.mark.root, pytest.mark.alone]

_MBIT_PER_S = 8
_PACKET = bytes(1400)
_FLOOD_S = 1.0
_MOST = _MBIT_PER_S * 125_000
"""Bytes a second."""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A node whose sandboxes have a small rate."""
    with running_node(made, mbit_per_s=_MBIT_PER_S) as found:
        yield found


def _datagrams(where: Namespace, port: int = 0, address: str = "0.0.0.0") -> socket.socket:
    sock = where.open_socket(socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    sock.bind((address, port))
    sock.settimeout(2)
    return sock


def _arriving(receiver: socket.socket, send: Callable[[], object]) -> float:
    """Bytes a second that arrive while ``send`` is called as fast as it goes."""
    received = 0
    over = threading.Event()

    def take() -> None:
        nonlocal received
        receiver.settimeout(0.3)
        while True:
            try:
                received += len(receiver.recv(65536))
            except TimeoutError:
                if over.is_set():
                    return

    thread = threading.Thread(target=take)
    thread.start()
    began = time.monotonic()
    while time.monotonic() < began + _FLOOD_S:
        send()
    seconds = time.monotonic() - began
    over.set()
    thread.join()
    return received / seconds


def _is_bounded(made: Lab, comment: str, receiver: socket.socket, send: Callable[[], object], neighbour: Callable[[], object]) -> None:
    with_rule = _arriving(receiver, send)
    neighbour()
    assert _MOST / 4 < with_rule < _MOST * 4, "about the rate, and a second of it that may come at once"
    disable_rule(made.router(), "cloister", comment)
    assert _arriving(receiver, send) > with_rule * 4, "the sender is no faster than the rate: the test proves nothing"


def test_sandbox_cannot_send_faster_than_its_rate(made: Lab, node: NetworkNode) -> None:
    """A flood of one sandbox arrives at its rate; what a neighbour sends meanwhile arrives."""
    attacker, neighbour = made.sandbox(), made.sandbox()
    node.attach(1, attacker.fd, PUBLIC_EGRESS)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
    with _datagrams(made.far, 9000) as sink, _datagrams(made.far, 9001) as other, _datagrams(attacker) as flood, _datagrams(neighbour) as calm:

        def neighbour_arrives() -> None:
            flood.sendto(_PACKET, (FAR, 9000))
            calm.sendto(b"calm", (FAR, 9001))
            assert other.recv(100) == b"calm"

        _is_bounded(made, "egress-rate", sink, lambda: flood.sendto(_PACKET, (FAR, 9000)), neighbour_arrives)


def test_sandbox_cannot_be_sent_to_faster_than_its_rate(made: Lab, node: NetworkNode) -> None:
    """Answers to a sandbox pass at its rate."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with _datagrams(made.far, 9000, FAR) as source, _datagrams(sandbox) as asking:
        asking.sendto(b"ask", (FAR, 9000))
        _, asker = source.recvfrom(100)
        _is_bounded(made, "ingress-rate", asking, lambda: source.sendto(_PACKET, asker), lambda: None)
