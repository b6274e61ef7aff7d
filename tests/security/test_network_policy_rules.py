"""Each rule for lists and for the egress process, one attack a test: it fails with the rule and succeeds without it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cloister.model.network import ALL_ADDRESSES, NO_EGRESS, PUBLIC_EGRESS, EgressPolicy, EgressProxy, HeaderRule
from cloister.network.gate import DNS_PORT
from cloister.network.slots import NetworkNode
from framework.gate_lab import RecordedGate, connects_as_egress
from framework.network_lab import (
    FAR,
    HOST,
    Lab,
    Namespace,
    can_connect,
    disable_rule,
    lab,
    next_datagram,
    running_node,
    send_datagram,
)

pytestmark = pytest.mark.root

ONE = "203.0.113.9"
NAMES = EgressPolicy(public=True, names=("example.com",), deny=(ALL_ADDRESSES,))
RULES = EgressPolicy(public=True, rules=(HeaderRule(host="example.com", headers={}),))
PROXY = EgressPolicy(public=True, proxy=EgressProxy(address="proxy.example.com:1080"))
ONLY_ONE = EgressPolicy(public=True, allow=(f"{ONE}/32",), deny=(ALL_ADDRESSES,))
EVERYTHING_BUT_NAMES = EgressPolicy(public=True, names=("example.com",), allow=(ALL_ADDRESSES,), deny=(ALL_ADDRESSES,))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        found.far.run(f"ip address add {ONE}/32 dev far0", "ip address add 10.66.0.1/32 dev far0")
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A running node on that host."""
    with running_node(made, gate=RecordedGate()) as found:
        yield found


@pytest.fixture
def sandbox(made: Lab, node: NetworkNode) -> Namespace:
    """A sandbox in slot 1 that may do all, until the test changes that."""
    found = made.sandbox()
    node.attach(1, found.fd, PUBLIC_EGRESS)
    return found


def rules_hold(made: Lab, attack: Callable[[], bool], *comments: str, accept: bool = False) -> None:
    """The attack fails with the router's rules of these comments, and succeeds without them; ``accept``: the chain's policy drops too."""
    assert not attack(), "the attack succeeds against the whole ruleset"
    for comment in comments:
        disable_rule(made.router(), "cloister", comment, accept=accept)
    assert attack(), "the attack fails even without the rules: the test proves nothing"


def no_connection_is_cut(monkeypatch: pytest.MonkeyPatch, node: NetworkNode) -> None:
    """The kernel keeps its connections at a change, so that the rules stand alone."""
    monkeypatch.setattr(node, "_cut", lambda *_: None)


def test_sandbox_cannot_reach_a_denied_address(made: Lab, node: NetworkNode, sandbox: Namespace) -> None:
    """Outward, the rule ``denied``."""
    node.set_egress(1, ONLY_ONE)
    with made.far.listen("0.0.0.0"):
        rules_hold(made, partial(can_connect, sandbox, FAR, timeout_s=0.3), "denied", "denied-inward")


def test_denied_address_cannot_send_to_a_sandbox(
    made: Lab, node: NetworkNode, sandbox: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inward, the rule ``denied-inward``, in a connection of before."""
    no_connection_is_cut(monkeypatch, node)
    with made.far.open_socket(socket.SOCK_DGRAM) as server, sandbox.open_socket(socket.SOCK_DGRAM) as client:
        server.bind((FAR, 8080))
        client.bind(("0.0.0.0", 4000))
        client.sendto(b"x", (FAR, 8080))
        peer = server.recvfrom(100)[1]
        node.set_egress(1, ONLY_ONE)

        def attack() -> bool:
            server.sendto(b"inward", peer)
            return next_datagram(client) is not None

        rules_hold(made, attack, "denied-inward")


@pytest.mark.parametrize(("policy", "rule"), [(ONLY_ONE, "no-questions"), (NAMES, "questions-past-gate")])
def test_sandbox_cannot_ask_the_resolver(
    made: Lab, node: NetworkNode, sandbox: Namespace, policy: EgressPolicy, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a socket of before, which the kernel does not redirect: a sandbox without names at all, or with some."""
    no_connection_is_cut(monkeypatch, node)
    udp, tcp = node.dns_sockets()
    with udp, tcp, sandbox.open_socket(socket.SOCK_DGRAM) as asker:
        asker.connect((node.gateway_address, 53))
        asker.send(b"before")
        assert next_datagram(udp) == b"before"
        node.set_egress(1, policy)

        def attack() -> bool:
            try:
                asker.send(b"after")
            except OSError:
                asker.send(b"after")  # the refusal of the first comes with the second
            return next_datagram(udp) is not None

        rules_hold(made, attack, rule, accept=True)


@pytest.mark.parametrize(
    ("policy", "port", "rule"),
    [(RULES, 443, "web-past-gate"), (PROXY, 8080, "past-gate"), (EVERYTHING_BUT_NAMES, 53, "names-past-gate")],
)
def test_sandbox_cannot_go_past_the_egress_process(
    made: Lab, node: NetworkNode, sandbox: Namespace, policy: EgressPolicy, port: int, rule: str
) -> None:
    """Were a redirection lost, the connection would be refused."""
    node.set_egress(1, policy)
    made.router().run("nft flush map inet cloister redirected")
    with made.far.listen("0.0.0.0", port):
        rules_hold(made, partial(can_connect, sandbox, FAR, port, timeout_s=0.3), rule, f"{rule}-inward")


def test_sandbox_cannot_use_the_ports_of_the_egress_process(made: Lab, node: NetworkNode, sandbox: Namespace) -> None:
    """They are the router's own, like any other port of it."""
    node.set_egress(1, NAMES)
    with made.router().open_socket(socket.SOCK_DGRAM) as names:
        names.bind((node.gateway_address, DNS_PORT))

        def attack() -> bool:
            send_datagram(sandbox, node.gateway_address, DNS_PORT)
            return next_datagram(names) is not None

        assert not attack()
        disable_rule(made.router(), "cloister", "router-itself", accept=True)
        assert attack()


def test_egress_process_cannot_reach_a_sandbox(made: Lab, sandbox: Namespace) -> None:
    """The rule ``gate-neighbour``, and by their addresses ``gate-refused``. The answers are let in for the test."""
    with sandbox.listen("0.0.0.0"):
        made.router().run("nft insert rule inet cloister prerouting accept", "nft insert rule inet cloister input accept")
        rules_hold(made, partial(connects_as_egress, made.router(), "10.200.0.1"), "gate-neighbour", "gate-refused")


@pytest.mark.parametrize(
    ("address", "router_rule", "host_rule"), [("10.66.0.1", "gate-refused", "refused"), ("192.0.2.2", "gate-host-network", "host-network")]
)
def test_egress_process_cannot_reach_private_networks(
    made: Lab, node: NetworkNode, address: str, router_rule: str, host_rule: str
) -> None:
    """Router and host each refuse them."""
    with made.far.listen("0.0.0.0"):
        attack = partial(connects_as_egress, made.router(), address)
        assert not attack()
        disable_rule(made.router(), "cloister", router_rule)
        assert not attack(), "the host alone does not hold"
        disable_rule(made.host, "cloister0", host_rule)
        assert attack()
        node.start()
        disable_rule(made.host, "cloister0", host_rule)
        assert not attack(), "the router alone does not hold"


def test_egress_process_cannot_use_ports_of_the_router(made: Lab, node: NetworkNode) -> None:
    """The rule ``gate-router``: of the router's loopback it may use the resolver alone."""
    with made.router().listen("127.0.0.1"):
        rules_hold(made, partial(connects_as_egress, made.router(), "127.0.0.1"), "gate-router", "gate-neighbour", "gate-refused")
    assert not connects_as_egress(made.router(), HOST)


def test_stranger_in_the_router_cannot_connect(made: Lab, node: NetworkNode) -> None:
    """The rule ``router-outward``: a process of another uid opens no connection to the outside."""
    assert node.survey()
    with made.far.listen(FAR):
        rules_hold(made, partial(connects_as_egress, made.router(), FAR, uid=65_534), "router-outward")


def test_answers_do_not_reach_a_sandbox_without_internet(made: Lab, node: NetworkNode, sandbox: Namespace) -> None:
    """The rule ``answers-offline``: the resolver's answer to a question of before does not arrive."""
    udp, tcp = node.dns_sockets()
    with udp, tcp, sandbox.open_socket(socket.SOCK_DGRAM) as asker:
        asker.bind(("0.0.0.0", 4000))
        asker.sendto(b"question", (node.gateway_address, 53))
        peer = udp.recvfrom(100)[1]
        node.set_egress(1, NO_EGRESS)

        def attack() -> bool:
            with contextlib.suppress(PermissionError):  # the sender learns that it was dropped
                udp.sendto(b"answer", peer)
            return next_datagram(asker) is not None

        rules_hold(made, attack, "answers-offline")
