"""A sandbox's own lists of addresses, in the router: what they refuse, live changes, and what is left of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloister.linux.conntrack import forget_connections
from cloister.model.network import ALL_ADDRESSES, NO_EGRESS, PUBLIC_EGRESS, EgressPolicy
from cloister.network.refusals import Target
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, HOST, Lab, Namespace, can_connect, lab, next_datagram, running_node, send_datagram
from framework.waiting import eventually

pytestmark = pytest.mark.root

_IP_RECVERR = 11
ONE, TWO = "203.0.113.9", "203.0.113.10"
ONLY_ONE = EgressPolicy(public=True, allow=(f"{ONE}/32",), deny=(ALL_ADDRESSES,))
MANY = (*(f"11.0.{number}.0/24" for number in range(0, 256, 2)), f"{TWO}/32")
NOT_ONE = EgressPolicy(public=True, deny=(f"{ONE}/32",))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine with three addresses."""
    with lab(tmp_path) as found:
        found.far.run(f"ip address add {ONE}/32 dev far0", f"ip address add {TWO}/32 dev far0")
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A running node on that host."""
    with running_node(made) as found:
        yield found


def reached(sandbox: Namespace) -> set[str]:
    """Which of the far machine's addresses a TCP connection reaches."""
    return {address for address in (FAR, ONE, TWO) if can_connect(sandbox, address, timeout_s=0.5)}


def own_objects(made: Lab) -> list[str]:
    """Chains, sets and map elements of single sandboxes in the router."""
    lines = made.router().run("nft list table inet cloister").splitlines()
    chains = [line.strip() for line in lines if line.strip().startswith(("chain s", "set s")) and line.split()[1][1:].isdigit()]
    elements = [line.strip() for line in lines if ('"cl0s' in line and "goto" in line) or "jump s" in line]
    return chains + elements


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (PUBLIC_EGRESS, {FAR, ONE, TWO}),
        (NOT_ONE, {FAR, TWO}),
        (EgressPolicy(public=True, deny=("203.0.113.0/24",)), {FAR}),
        (EgressPolicy(public=True, allow=(f"{TWO}/32",), deny=("203.0.113.0/24",)), {FAR, TWO}),
        (ONLY_ONE, {ONE}),
        (EgressPolicy(public=False, allow=("203.0.113.0/24",)), {ONE, TWO}),
        (EgressPolicy(public=False, allow=(f"{TWO}/32", f"{TWO}/32", "203.0.113.10/31")), {TWO}),
        (EgressPolicy(public=True, allow=(ALL_ADDRESSES,), deny=(ALL_ADDRESSES,)), {FAR, ONE, TWO}),
        (EgressPolicy(public=True, deny=(ALL_ADDRESSES,)), set()),
        (EgressPolicy(public=True, deny=("128.0.0.0/1",)), set()),
        (EgressPolicy(public=True, deny=("0.0.0.0/1", "224.0.0.0/3")), {FAR, ONE, TWO}),
    ],
)
def test_lists_decide_by_address(made: Lab, node: NetworkNode, policy: EgressPolicy, expected: set[str]) -> None:
    """Allow before deny, ranges, duplicates, overlaps; and a neighbour without lists is not concerned."""
    sandbox, neighbour = made.sandbox(), made.sandbox()
    node.attach(1, sandbox.fd, policy)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
    with made.far.listen("0.0.0.0"):
        assert reached(sandbox) == expected
        assert reached(neighbour) == {FAR, ONE, TWO}
    has_lists = not policy.is_closed and not policy.allows_all
    assert bool(own_objects(made)) == has_lists


def test_lists_hold_for_every_protocol(made: Lab, node: NetworkNode) -> None:
    """UDP and ICMP obey the lists as TCP does."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, ONLY_ONE)
    with made.far.open_socket(socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", 8080))
        send_datagram(sandbox, TWO)
        assert next_datagram(receiver) is None
        send_datagram(sandbox, ONE)
        assert next_datagram(receiver) == b"hello"
    with sandbox.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as pinger:
        for address in (TWO, ONE):
            pinger.sendto(bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0]), (address, 0))
        pinger.settimeout(1)
        answered = next(answer for answer in iter(partial(pinger.recv, 100), b"") if answer[20] == 0)
        assert answered[12:16] == socket.inet_aton(ONE)
    assert {(one.target, one.slot) for one in node.take_refusals()} == {
        (Target(TWO, "udp", 8080, "denied"), 1),
        (Target(TWO, "icmp", 0, "denied"), 1),
    }


def test_allowed_addresses_do_not_open_what_the_operator_refuses(made: Lab) -> None:
    """Private, host and neighbour addresses stay refused to a sandbox that allows all. The operator's own setting opens one."""
    made.far.run("ip address add 10.66.0.1/32 dev far0", "ip address add 10.67.0.1/32 dev far0")
    every = EgressPolicy(public=True, allow=(ALL_ADDRESSES, "10.0.0.0/8", f"{HOST}/32"))
    with running_node(made, allow_private=("10.67.0.0/16",)) as node, made.far.listen("0.0.0.0"), made.host.listen("0.0.0.0"):
        sandbox, other = made.sandbox(), made.sandbox()
        node.attach(1, sandbox.fd, every)
        neighbour = node.attach(2, other.fd, PUBLIC_EGRESS)
        with other.listen("0.0.0.0"):
            for address in ("10.66.0.1", HOST, neighbour.address, "127.0.0.1", node.gateway_address):
                assert not can_connect(sandbox, address, timeout_s=0.3), address
        assert can_connect(sandbox, "10.67.0.1")
        node.set_egress(1, EgressPolicy(public=True, deny=("10.67.0.0/16",)))
        assert not can_connect(sandbox, "10.67.0.1", timeout_s=0.3), "a sandbox may deny what the operator opens"


def test_a_change_cuts_what_is_no_longer_allowed_and_nothing_else(made: Lab, node: NetworkNode) -> None:
    """Of two open connections the one that the new lists refuse is cut; the other goes on, as do those of a neighbour."""
    sandbox, neighbour = made.sandbox(), made.sandbox()
    slot = node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
    with made.far.listen("0.0.0.0") as listener:
        clients = [where.open_socket() for where in (sandbox, sandbox, neighbour)]
        servers = []
        for client, address in zip(clients, (ONE, TWO, TWO), strict=True):
            client.settimeout(1)
            client.connect((address, 8080))
            servers.append(listener.accept()[0])
        node.set_egress(1, ONLY_ONE)
        for client, server in ((clients[0], servers[0]), (clients[2], servers[2])):
            client.sendall(b"on")
            server.settimeout(1)
            assert server.recv(10) == b"on"
            server.sendall(b"back")
            assert client.recv(10) == b"back"
        servers[1].sendall(b"inward")
        clients[1].settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|reset"):
            clients[1].recv(10)
        with pytest.raises(OSError, match=r"reset|refused|Broken"):  # noqa: PT012 - the refusal of the first comes with the second
            clients[1].send(b"outward")
            clients[1].recv(10)
        for where in (made.host, made.router()):
            kept = where.call(partial(forget_connections, IPv4Address(slot.address), lambda one: one.destination == IPv4Address(TWO)))
            assert kept == 0, "the connection still counts as the sandbox's"
        for one in (*clients, *servers):
            one.close()


def test_a_change_cuts_udp_that_only_flows_inward(made: Lab, node: NetworkNode) -> None:
    """A far machine that goes on sending, while the sandbox sends nothing, is cut too."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.open_socket(socket.SOCK_DGRAM) as server, sandbox.open_socket(socket.SOCK_DGRAM) as client:
        server.bind((ONE, 8080))
        client.bind(("0.0.0.0", 4000))
        client.sendto(b"x", (ONE, 8080))
        peer = server.recvfrom(100)[1]
        server.sendto(b"before", peer)
        assert next_datagram(client) == b"before"
        node.set_egress(1, NOT_ONE)
        server.sendto(b"after", peer)
        assert next_datagram(client) is None


def test_one_change_replaces_everything(made: Lab, node: NetworkNode) -> None:
    """Each change leaves nothing of the one before, up to no list at all."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, ONLY_ONE)
    with made.far.listen("0.0.0.0"):
        for policy, expected in (
            (NOT_ONE, {FAR, TWO}),
            (NO_EGRESS, set()),
            (ONLY_ONE, {ONE}),
            (EgressPolicy(public=True, deny=MANY), {FAR, ONE}),
            (PUBLIC_EGRESS, {FAR, ONE, TWO}),
        ):
            node.set_egress(1, policy)
            assert reached(sandbox) == expected
    assert own_objects(made) == []


def test_the_largest_lists_are_taken(made: Lab, node: NetworkNode) -> None:
    """1,000 entries in each list, none of which touch."""
    sandbox = made.sandbox()
    allow = tuple(f"11.{number >> 7}.{(number & 127) * 2}.1/32" for number in range(999))
    deny = tuple(f"12.{number >> 7}.{(number & 127) * 2}.1/32" for number in range(999))
    node.attach(1, sandbox.fd, EgressPolicy(public=False, allow=(*allow, f"{ONE}/32"), deny=(*deny, f"{TWO}/32")))
    with made.far.listen("0.0.0.0"):
        assert reached(sandbox) == {ONE}


def test_a_slots_lists_end_with_it(made: Lab, node: NetworkNode) -> None:
    """After each kind of release the next sandbox of the slot has no list of the former, and the router no object."""
    first, second, third = made.sandbox(), made.sandbox(), made.sandbox()
    with made.far.listen("0.0.0.0"):
        node.attach(1, first.fd, ONLY_ONE)
        node.release(1)
        assert own_objects(made) == []
        node.attach(1, second.fd, ONLY_ONE)
        node.release_later(1, None, lambda: None)
        node.attach(1, third.fd, PUBLIC_EGRESS)
        assert reached(third) == {FAR, ONE, TWO}
    assert own_objects(made) == []


def test_adoption_renews_the_lists(made: Lab) -> None:
    """The next server's start keeps lists and connections, and strangers' lists go. Its attachments renew the policies."""
    with running_node(made) as dead, made.far.listen("0.0.0.0") as listener:
        kept, gone = made.sandbox(), made.sandbox()
        dead.attach(1, kept.fd, ONLY_ONE)
        dead.attach(2, gone.fd, ONLY_ONE)
        with kept.open_socket() as client:
            client.settimeout(1)
            client.connect((ONE, 8080))
            server = listener.accept()[0]
            dead.close()
            gone.close()
            made.forget_sandboxes(keep=1)
            eventually(lambda: "cl0s2" not in made.router().run("ip -o link"))
            heir = made.node()
            heir.start()
            assert not any("s2" in line for line in own_objects(made))
            assert reached(kept) == {ONE}
            heir.attach(1, kept.fd, ONLY_ONE)
            client.sendall(b"on")
            assert server.recv(10) == b"on"
            heir.attach(1, kept.fd, NOT_ONE)
            assert reached(kept) == {FAR, TWO}
            server.close()
        heir.stop()
        assert heir.survey() == []


def test_a_sandbox_in_anothers_slot_never_has_its_policy(made: Lab) -> None:
    """A namespace that takes over a dead sandbox's slot is under its own policy from its first packet."""
    with running_node(made) as dead, made.far.listen("0.0.0.0"):
        old, new = made.sandbox(), made.sandbox()
        dead.attach(1, old.fd, PUBLIC_EGRESS)
        dead.close()
        heir = made.node()
        heir.start()
        heir.attach(1, new.fd, ONLY_ONE)
        assert reached(new) == {ONE}
        heir.stop()


def test_resolver_is_closed_to_those_who_may_not_ask(made: Lab, node: NetworkNode) -> None:
    """A sandbox that only allows addresses sends no question; one that denies some addresses does."""
    mute, other = made.sandbox(), made.sandbox()
    node.attach(1, mute.fd, ONLY_ONE)
    node.attach(2, other.fd, NOT_ONE)
    udp, tcp = node.dns_sockets()
    with udp, tcp:
        send_datagram(mute, node.gateway_address, 53)
        assert next_datagram(udp) is None
        assert not can_connect(mute, node.gateway_address, 53, timeout_s=0.3)
        send_datagram(other, node.gateway_address, 53)
        assert next_datagram(udp) == b"hello"
        node.set_egress(1, NOT_ONE)
        send_datagram(mute, node.gateway_address, 53)
        assert next_datagram(udp) == b"hello"
    assert Target(node.gateway_address, "udp", 53, "denied") in {one.target for one in node.take_refusals()}


def test_errors_on_the_way_to_an_allowed_address_arrive(made: Lab, node: NetworkNode) -> None:
    """A router on the way may tell that a packet's time was up, though the lists do not allow its address."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, ONLY_ONE)
    with sandbox.open_socket(socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)  # the host's step is the second
        client.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        client.connect((ONE, 8080))
        client.send(b"x")
        client.settimeout(1)
        with pytest.raises(OSError, match=r"unreachable|No route"):
            client.recv(10)
