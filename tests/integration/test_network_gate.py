"""Redirection to the egress process, and the rules for that process, with the test in its place."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import IsolationError, UnavailableError
from cloister.model.network import ALL_ADDRESSES, NO_EGRESS, PUBLIC_EGRESS, EgressPolicy, EgressProxy, HeaderRule
from cloister.network.egress import FLOWS_PER_SANDBOX, ROUTER_TABLE, host_table
from cloister.network.gate import DNS_PORT, TCP_PORT
from cloister.network.refusals import Target
from cloister.network.slots import NetworkNode
from framework.gate_lab import RecordedGate, connects_as_egress, original_destination
from framework.network_lab import (
    EGRESS_UID,
    FAR,
    HOST,
    Lab,
    Namespace,
    can_connect,
    disable_rule,
    lab,
    next_datagram,
    open_flows,
    running_node,
    send_datagram,
)

pytestmark = pytest.mark.root

_NOBODY = 65_534
NAMES = EgressPolicy(public=True, names=("example.com",), deny=(ALL_ADDRESSES,))
RULES = EgressPolicy(public=True, rules=(HeaderRule(host="example.com", headers={"x": "y"}),))
PROXY = EgressPolicy(public=True, proxy=EgressProxy(address="proxy.example.com:1080"))
NAMES_PROXY = EgressPolicy(public=True, names=("example.com",), deny=(ALL_ADDRESSES,), proxy=EgressProxy(address="proxy.example.com:1080"))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def gate() -> RecordedGate:
    """The egress process."""
    return RecordedGate()


@pytest.fixture
def node(made: Lab, gate: RecordedGate) -> Iterator[NetworkNode]:
    """A running node on that host, with that egress process."""
    with running_node(made, gate=gate) as found:
        yield found


def destination_at_gate(sandbox: Namespace, listener: socket.socket, address: str, port: int) -> tuple[str, int] | None:
    """The original destination of a connection as the egress process sees it; None if it does not come there."""
    with sandbox.open_socket() as client:
        client.settimeout(0.5)
        try:
            client.connect((address, port))
        except OSError:
            return None
        listener.settimeout(0.3)
        try:
            server, peer = listener.accept()
        except TimeoutError:
            return None
        with server:
            assert peer[0].startswith("10.200."), "the egress process sees the sandbox's own address"
            client.sendall(b"ping")
            assert server.recv(10) == b"ping"
            server.sendall(b"pong")
            assert client.recv(10) == b"pong"
            return original_destination(server)


@pytest.mark.parametrize(
    ("policy", "redirected", "direct"),
    [
        (NAMES, {80, 443}, set()),
        (RULES, {80, 443}, {8080, 53}),
        (PROXY, {80, 443, 8080, 53}, set()),
        (NAMES_PROXY, {80, 443, 8080}, set()),
        (PUBLIC_EGRESS, set(), {80, 443, 8080, 53}),
    ],
)
def test_connections_that_need_it_go_to_the_egress_process(
    made: Lab, node: NetworkNode, gate: RecordedGate, policy: EgressPolicy, redirected: set[int], direct: set[int]
) -> None:
    """It learns the original destination. Other connections go directly or nowhere, and a neighbour is not concerned."""
    sandbox, neighbour = made.sandbox(), made.sandbox()
    node.attach(1, sandbox.fd, policy)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
    assert gate.policies == ({1: policy} if policy.needs_gate else {})
    listener, names = gate.listen(made.router(), node.gateway_address)
    far = [made.far.listen("0.0.0.0", port) for port in (80, 443, 8080, 53)]
    for port in (80, 443, 8080, 53):
        seen = destination_at_gate(sandbox, listener, FAR, port)
        assert seen == ((FAR, port) if port in redirected else None), port
        if port not in redirected and not (port == 53 and policy.names):
            assert can_connect(sandbox, FAR, port, timeout_s=0.3) == (port in direct), port
        assert can_connect(neighbour, FAR, port)
    for one in (listener, names, *far):
        one.close()


@pytest.mark.parametrize("policy", [NAMES, NAMES_PROXY])
def test_questions_go_to_the_egress_process(made: Lab, node: NetworkNode, gate: RecordedGate, policy: EgressPolicy) -> None:
    """Every question of a sandbox with names, to the gateway or to a foreign resolver, by UDP or TCP; and the answer comes back."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, policy)
    udp, tcp = node.dns_sockets()
    listener, names = gate.listen(made.router(), node.gateway_address)
    over_tcp = made.router().listen(node.gateway_address, DNS_PORT)
    with udp, tcp, listener, names, over_tcp:
        for resolver in (node.gateway_address, FAR, "10.0.0.53"):
            with sandbox.open_socket(socket.SOCK_DGRAM) as client:
                client.connect((resolver, 53))
                client.send(b"question")
                question, peer = names.recvfrom(100)
                names.sendto(b"answer", peer)
                assert (question, next_datagram(client)) == (b"question", b"answer")
            assert can_connect(sandbox, resolver, 53)
            over_tcp.settimeout(1)
            over_tcp.accept()[0].close()
        assert next_datagram(udp) is None


def test_udp_and_icmp_of_a_proxied_sandbox_are_refused(made: Lab, node: NetworkNode) -> None:
    """A SOCKS5 proxy carries TCP only, so nothing else leaves."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PROXY)
    with made.far.open_socket(socket.SOCK_DGRAM) as receiver:
        receiver.bind((FAR, 443))
        send_datagram(sandbox, FAR, 443)
        assert next_datagram(receiver) is None
    with sandbox.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as pinger:
        pinger.sendto(bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0]), (FAR, 0))
    assert {one.target for one in node.take_refusals()} == {Target(FAR, "udp", 443, "unproxied"), Target(FAR, "icmp", 0, "unproxied")}


def test_quic_of_a_sandbox_with_names_is_refused(made: Lab, node: NetworkNode) -> None:
    """UDP to port 443 obeys the lists of addresses."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NAMES)
    with made.far.open_socket(socket.SOCK_DGRAM) as receiver:
        receiver.bind((FAR, 443))
        send_datagram(sandbox, FAR, 443)
        assert next_datagram(receiver) is None


def test_without_the_egress_process_nothing_passes(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """While nothing listens, redirected connections and questions are refused; a policy that it does not take is not put in force."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NAMES)
    udp, tcp = node.dns_sockets()
    with made.far.listen("0.0.0.0", 443), udp, tcp:
        assert not can_connect(sandbox, FAR, 443, timeout_s=0.5)
        send_datagram(sandbox, node.gateway_address, 53)
        assert next_datagram(udp) is None
        gate.failure = UnavailableError("it does not start")
        with pytest.raises(UnavailableError):
            node.set_egress(1, RULES)
        assert not can_connect(sandbox, FAR, 443, timeout_s=0.5)
        with pytest.raises(UnavailableError):
            node.attach(2, made.sandbox().fd, NAMES)
    assert node.slots_in_use() == {1}


def test_a_node_without_an_egress_process_refuses_policies_that_need_it(made: Lab) -> None:
    """And the slot is free."""
    with running_node(made) as node:
        with pytest.raises(IsolationError, match="egress process"):
            node.attach(1, made.sandbox().fd, NAMES)
        assert node.slots_in_use() == set()


def test_refused_destinations_are_not_redirected(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """Private, host, neighbour and gateway addresses are refused by their own rules, with their own reasons."""
    sandbox, other = made.sandbox(), made.sandbox()
    node.attach(1, sandbox.fd, PROXY)
    neighbour = node.attach(2, other.fd, PUBLIC_EGRESS)
    listener, names = gate.listen(made.router(), node.gateway_address)
    with listener, names:
        for address in ("169.254.169.254", HOST, neighbour.address, node.gateway_address):
            assert destination_at_gate(sandbox, listener, address, 80) is None, address
    assert {one.target.reason for one in node.take_refusals() if one.target} == {"not_public", "host_network", "neighbour", "gateway"}


def test_a_policy_with_names_cuts_what_went_directly(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """Open connections and resolver sockets of before do not get past the names; what the lists allow goes on."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    udp, tcp = node.dns_sockets()
    listener, names = gate.listen(made.router(), node.gateway_address)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    with made.far.listen("0.0.0.0", 443) as far, udp, tcp, listener, names:
        clients = [sandbox.open_socket() for _ in range(2)]
        for client, address in zip(clients, (FAR, "203.0.113.9"), strict=True):
            client.settimeout(0.5)
            client.connect((address, 443))
        servers = [far.accept()[0] for _ in clients]
        asker = sandbox.open_socket(socket.SOCK_DGRAM)
        asker.connect((node.gateway_address, 53))
        asker.send(b"before")
        assert next_datagram(udp) == b"before"
        stream = sandbox.open_socket()
        stream.connect((node.gateway_address, 53))
        node.set_egress(1, EgressPolicy(public=True, names=("example.com",), allow=("203.0.113.9/32",), deny=(ALL_ADDRESSES,)))
        asker.send(b"after")
        assert names.recv(100) == b"after"
        assert next_datagram(udp) is None
        stream.settimeout(0.5)
        with pytest.raises(OSError, match="reset"):  # noqa: PT012 - the refusal of the first comes with the second
            stream.send(b"x")
            stream.recv(1)
        with pytest.raises(OSError, match="reset"):  # noqa: PT012 - the refusal of the first comes with the second
            clients[0].send(b"x")
            clients[0].recv(1)
        clients[1].send(b"on")
        assert servers[1].recv(10) == b"on"
        assert destination_at_gate(sandbox, listener, "203.0.113.9", 443) == ("203.0.113.9", 443)
        for one in (*clients, *servers, asker, stream):
            one.close()


@pytest.mark.parametrize("policy", [RULES, PROXY])
def test_rules_and_proxies_cut_direct_connections(made: Lab, node: NetworkNode, policy: EgressPolicy) -> None:
    """A connection from before would carry no header and use no proxy, though its address is allowed."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.listen("0.0.0.0", 443) as far, sandbox.open_socket() as client:
        client.settimeout(0.5)
        client.connect((FAR, 443))
        server = far.accept()[0]
        node.set_egress(1, policy)
        server.sendall(b"inward")
        with pytest.raises(OSError, match=r"timed out|reset"):
            client.recv(10)
        with pytest.raises(OSError, match=r"reset|Broken|refused"):  # noqa: PT012 - the refusal of the first comes with the second
            client.send(b"x")
            client.recv(1)
        server.close()


def test_connections_at_the_egress_process_go_on_when_it_is_not_needed_any_more(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """It is told the new policy and keeps what that allows; new connections go directly. A closed policy ends all."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, RULES)
    listener, names = gate.listen(made.router(), node.gateway_address)
    with listener, names, made.far.listen("0.0.0.0", 443), sandbox.open_socket() as client:
        client.settimeout(0.5)
        client.connect((FAR, 443))
        server = listener.accept()[0]
        node.set_egress(1, PUBLIC_EGRESS)
        assert gate.policies == {1: PUBLIC_EGRESS}
        client.send(b"on")
        assert server.recv(10) == b"on"
        assert destination_at_gate(sandbox, listener, FAR, 443) is None
        assert can_connect(sandbox, FAR, 443)
        node.set_egress(1, NO_EGRESS)
        assert gate.policies == {}
        server.send(b"inward")
        with pytest.raises(OSError, match=r"timed out|reset"):
            client.recv(10)
        server.close()


def test_the_gates_ports_are_for_redirected_connections_only(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """No sandbox connects to them by itself, and nothing from the host does."""
    with_gate, without = made.sandbox(), made.sandbox()
    node.attach(1, with_gate.fd, NAMES)
    node.attach(2, without.fd, PUBLIC_EGRESS)
    listener, names = gate.listen(made.router(), node.gateway_address)
    with listener, names:
        for origin in (with_gate, without, made.host):
            assert not can_connect(origin, node.gateway_address, TCP_PORT, timeout_s=0.3)
            send_datagram(origin, node.gateway_address, DNS_PORT)
            assert next_datagram(names) is None


def test_egress_process_reaches_no_more_than_a_sandbox(made: Lab) -> None:
    """Broken, it reaches public addresses, the operator's networks and the resolver: no sandbox, no host, no private address."""
    made.far.run("ip address add 10.66.0.1/32 dev far0", "ip address add 10.67.0.1/32 dev far0")
    with running_node(made, allow_private=("10.67.0.0/16",), gate=RecordedGate()) as node:
        sandbox = made.sandbox()
        slot = node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        udp, tcp = node.dns_sockets()
        uplink = made.host.run("ip -4 -o address show dev cl0up").split()[3].split("/")[0]
        router = made.router()
        with made.far.listen("0.0.0.0"), made.host.listen("0.0.0.0"), sandbox.listen("0.0.0.0"), router.listen("127.0.0.1"), udp, tcp:
            assert connects_as_egress(router, FAR)
            assert connects_as_egress(router, "10.67.0.1")
            assert connects_as_egress(router, node.gateway_address, 53)
            for address in ("10.66.0.1", HOST, uplink, slot.address, "127.0.0.1", "169.254.169.254"):
                assert not connects_as_egress(router, address), address
            assert not connects_as_egress(router, FAR, uid=_NOBODY), "another uid of the router opens no connection at all"
        counted = node.counters()
        assert all(counted[name] for name in ("gate-out", "gate-neighbour", "gate-refused", "gate-host-network", "gate-router"))


def test_flows_by_gate(made: Lab, node: NetworkNode, gate: RecordedGate) -> None:
    """A sandbox that uses up its connections opens none to the egress process either."""
    greedy = made.sandbox()
    node.attach(1, greedy.fd, RULES)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    listener, names = gate.listen(made.router(), node.gateway_address)
    with listener, names, greedy.open_socket(socket.SOCK_DGRAM) as sender:
        assert destination_at_gate(greedy, listener, FAR, 80) == (FAR, 80)
        open_flows(sender, "203.0.113.9", FLOWS_PER_SANDBOX + 64)
        assert destination_at_gate(greedy, listener, FAR, 80) is None
        disable_rule(made.router(), ROUTER_TABLE, "flows-by-gate")
        assert destination_at_gate(greedy, listener, FAR, 80) == (FAR, 80)


def test_flows_of_gate(made: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The egress process cannot fill the host's connection table; sandboxes that do not need it are not concerned."""
    monkeypatch.setattr("cloister.network.egress.FLOWS_OF_GATE", 64)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    with running_node(made, gate=RecordedGate()) as node, made.far.listen("0.0.0.0"):
        sandbox, router = made.sandbox(), made.router()
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        assert connects_as_egress(router, FAR)
        fill = "s = socket.socket(2, 2); [s.sendto(b'x', ('203.0.113.9', n)) for n in range(1, 99)]"
        router.run(f'{sys.executable} -c "import os, socket; os.setuid({EGRESS_UID}); {fill}"')
        assert not connects_as_egress(router, FAR)
        assert can_connect(sandbox, FAR)
        disable_rule(made.host, host_table(0), "flows-of-gate")
        assert connects_as_egress(router, FAR)


def test_adoption_renews_redirections(made: Lab, gate: RecordedGate) -> None:
    """The next server tells its egress process the policies; until then, and after, connections are redirected."""
    with running_node(made, gate=RecordedGate()) as dead:
        sandbox = made.sandbox()
        dead.attach(1, sandbox.fd, NAMES)
        dead.close()
        heir = made.node(gate=gate)
        heir.start()
        listener, names = gate.listen(made.router(), heir.gateway_address)
        with listener, names, made.far.listen("0.0.0.0", 443):
            assert destination_at_gate(sandbox, listener, FAR, 443) == (FAR, 443)
            heir.attach(1, sandbox.fd, NAMES)
            assert gate.policies == {1: NAMES}
            assert destination_at_gate(sandbox, listener, FAR, 443) == (FAR, 443)
            heir.release(1)
            assert gate.policies == {}
        heir.stop()
        assert heir.survey() == []
