"""Refused packets are counted for each sandbox, without any effect on the policy."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloister.linux.nftables import Nftables
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.network.egress import FLOWS_PER_SANDBOX
from cloister.network.refusals import Refusal, Target
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, HOST, Lab, Namespace, can_connect, lab, next_datagram, running_node, send_datagram

pytestmark = pytest.mark.root

METADATA = "169.254.169.254"
OWN = "203.0.113.77"
"""An address of the host in none of its networks."""
BURST, SET_SIZE = 16, 16384


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A running node on that host."""
    with running_node(made) as found:
        yield found


def taken(node: NetworkNode) -> dict[tuple[int, Target | None], int]:
    """Refused packets since the last call, by slot and target."""
    found = node.take_refusals()
    by_target = {(refusal.slot, refusal.target): refusal.packets for refusal in found}
    assert len(by_target) == len(found), "one target is told two times"
    return by_target


def ping(origin: Namespace, address: str, kind: int = 8) -> None:
    """One ICMP message."""
    with origin.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as sock:
        checksum = 0xFFFF - (kind << 8)
        sock.sendto(bytes([kind, 0]) + checksum.to_bytes(2, "big") + bytes(4), (address, 0))


def scan(origin: Namespace, address: str, ports: range) -> None:
    """A datagram to each port."""
    with origin.open_socket(socket.SOCK_DGRAM) as sock:
        for port in ports:
            try:
                sock.sendto(b"x", (address, port))
            except OSError:
                continue  # the refusal of an earlier one


def fill(where: Namespace, name: str, element: str, count: int) -> None:
    """Fill a set of the router or the host with ``count`` foreign elements; ``element`` is one, with a place for an address."""

    def body() -> None:
        nft = Nftables()
        first = int(IPv4Address("1.0.0.0"))
        for start in range(0, count, 4096):
            listed = ", ".join(element.format(IPv4Address(first + number)) for number in range(start, min(start + 4096, count)))
            nft.run(f"add element inet cloister {name} {{ {listed} }}")
        nft.close()

    where.call(body)


def test_each_refusal_is_kept_for_its_sandbox(made: Lab, node: NetworkNode) -> None:
    """Private, neighbour, gateway, host and its network, by TCP, UDP and ICMP: each with reason, packets, port, for the one that tried."""
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    other = node.attach(2, two.fd, PUBLIC_EGRESS)
    assert not can_connect(one, METADATA, 80)
    for _ in range(3):
        send_datagram(one, "192.168.1.1", 161)
    assert not can_connect(one, other.address, 22)
    assert not can_connect(one, node.gateway_address, 22)
    made.host.run(f"ip address add {OWN}/32 dev lo")
    send_datagram(one, OWN, 9000)
    send_datagram(one, HOST, 9000)
    ping(one, "10.9.9.9")
    assert not can_connect(two, METADATA, 443)
    assert taken(node) == {
        (1, Target(METADATA, "tcp", 80, "not_public")): 1,
        (1, Target("192.168.1.1", "udp", 161, "not_public")): 3,
        (1, Target(other.address, "tcp", 22, "neighbour")): 1,
        (1, Target(node.gateway_address, "tcp", 22, "gateway")): 1,
        (1, Target(OWN, "udp", 9000, "host")): 1,
        (1, Target(HOST, "udp", 9000, "host_network")): 1,
        (1, Target("10.9.9.9", "icmp", 0, "not_public")): 1,
        (2, Target(METADATA, "tcp", 443, "not_public")): 1,
    }
    assert taken(node) == {}, "what was taken is not told again"
    assert not can_connect(one, METADATA, 80)
    assert list(taken(node).values()) == [1], "the next one is told"


def test_without_internet_every_try_is_kept(made: Lab, node: NetworkNode) -> None:
    """Internet off: public addresses and the resolver are refused by that reason; a source that is not its own by another."""
    sandbox = made.sandbox()
    slot = node.attach(1, sandbox.fd, NO_EGRESS)
    assert not can_connect(sandbox, FAR, 443)
    send_datagram(sandbox, node.gateway_address, 53)
    assert sandbox.run_as(0, "ip address add 9.9.9.9/32 dev eth0").returncode == 0
    send_datagram(sandbox, FAR, 53, source="9.9.9.9")
    assert taken(node) == {
        (1, Target(FAR, "tcp", 443, "no_internet")): 1,
        (1, Target(node.gateway_address, "udp", 53, "no_internet")): 1,
        (1, Target(FAR, "udp", 53, "spoofed_source")): 1,
    }
    assert slot.slot == 1


def test_too_many_connections_are_kept(made: Lab, node: NetworkNode) -> None:
    """Beyond the bound of tracked connections the reason is that bound."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    scan(sandbox, FAR, range(1, FLOWS_PER_SANDBOX + 100))
    found = taken(node)
    assert {target.reason for _, target in found if target} == {"too_many_connections"}
    assert len(found) == BURST + 1


def test_ipv6_is_kept(made: Lab, node: NetworkNode) -> None:
    """Were IPv6 turned on by mistake, what the router drops of it would be told."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    router = made.router()
    for where in (router, sandbox):
        where.call(lambda: [path.write_text("0") for path in Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6")])
    inside = "ip address add fd00:3::2/64 dev eth0 nodad; ip neighbour add fd00:3::1 lladdr 02:43:4c:00:00:02 dev eth0 nud permanent"
    assert sandbox.run_as(0, inside).returncode == 0
    with sandbox.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"hello", ("fd00:3::1", 53))
    assert taken(node) == {(1, Target("fd00:3::1", "udp", 53, "ipv6")): 1}


def test_what_passes_is_not_kept(made: Lab, node: NetworkNode) -> None:
    """A connection to a public address, a ping, the resolver and unrequested ICMP errors leave no entry."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    udp, tcp = node.dns_sockets()
    with udp, tcp, made.far.listen(FAR):
        assert can_connect(sandbox, FAR)
        send_datagram(sandbox, node.gateway_address, 53)
        ping(sandbox, FAR)
        ping(sandbox, node.gateway_address, kind=3)
    assert taken(node) == {}


def test_sandbox_cannot_hide_anothers_refusals_by_a_scan(made: Lab, node: NetworkNode) -> None:
    """A scan of every port and of many addresses leaves a bounded number of elements and one number; the neighbour's are whole."""
    greedy, quiet = made.sandbox(), made.sandbox()
    node.attach(1, greedy.fd, PUBLIC_EGRESS)
    node.attach(2, quiet.fd, PUBLIC_EGRESS)
    began = time.monotonic()
    scan(greedy, METADATA, range(1, 20000))
    for number in range(500):
        ping(greedy, f"10.1.{number // 250}.{number % 250}")
    assert not can_connect(quiet, METADATA, 80)
    room = BURST + int(time.monotonic() - began) + 2
    found = taken(node)
    assert found[(2, Target(METADATA, "tcp", 80, "not_public"))] == 1
    assert len([target for slot, target in found if slot == 1 and target]) <= room
    assert sum(packets for (slot, _), packets in found.items() if slot == 1) == sum(made_packets(node).values()) - 1
    assert (2, None) not in found


def made_packets(node: NetworkNode) -> dict[str, int]:
    """Packets that the router's rules refused."""
    return {name: packets for name, packets in node.counters().items() if name in ("refused", "offline", "neighbour", "router-itself")}


@pytest.mark.parametrize("online", [True, False])
def test_sandbox_cannot_open_the_policy_by_full_sets(made: Lab, node: NetworkNode, online: bool) -> None:
    """With every set full, nothing more can be kept: what is refused stays refused as fast, and what passes passes."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS if online else NO_EGRESS)
    made.far.run(f"ip address add {METADATA}/32 dev far0")
    router = made.router()
    for name, rest in (("port", " . udp . 1 . 1"), ("plain", " . icmp . 1")):
        fill(router, f"refusals_{name}", f"other0 . {{}}{rest} counter packets 1 bytes 1", SET_SIZE)
    router.call(_fill_sources)
    with made.far.listen("0.0.0.0"), made.far.open_socket(socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", 8081))
        began = time.monotonic()
        assert not can_connect(sandbox, METADATA, 8080, timeout_s=20)
        assert can_connect(sandbox, FAR, 8080, timeout_s=20) == online
        assert time.monotonic() - began < 15, "a refusal is immediate"
        for address in (METADATA, *(() if online else (FAR,))):
            send_datagram(sandbox, address, 8081)
            assert next_datagram(receiver) is None
    assert all(slot != 1 for slot, _ in taken(node))
    assert not can_connect(sandbox, METADATA)
    assert [target.destination for slot, target in taken(node) if slot == 1 and target] == [METADATA], "there is room again"


def _fill_sources() -> None:
    nft = Nftables()
    for name, state in (("more", "counter packets 1 bytes 1"), ("rate", "limit rate over 1/second burst 16 packets")):
        listed = ", ".join(f"other{number} {state}" for number in range(8192))
        nft.run(f"add element inet cloister refusals_{name} {{ {listed} }}")
    nft.close()


@pytest.mark.parametrize("later", [True, False])
def test_sandbox_cannot_see_the_refusals_of_the_slots_last_user(made: Lab, node: NetworkNode, later: bool) -> None:
    """A slot's next sandbox starts without entries, even if those of the last one were not read. Other slots keep theirs."""
    first, other, second = made.sandbox(), made.sandbox(), made.sandbox()
    node.attach(1, first.fd, PUBLIC_EGRESS)
    node.attach(2, other.fd, PUBLIC_EGRESS)
    scan(first, METADATA, range(1, 100))
    made.host.run(f"ip address add {OWN}/32 dev lo")
    send_datagram(first, OWN, 9000)
    send_datagram(other, OWN, 9000)
    if later:
        node.release_later(1, None, lambda: None)
    else:
        node.release(1)
    node.attach(1, second.fd, PUBLIC_EGRESS)
    send_datagram(second, METADATA, 123)
    assert taken(node) == {
        (1, Target(METADATA, "udp", 123, "not_public")): 1,
        (2, Target(OWN, "udp", 9000, "host")): 1,
    }


def test_refusals_outlive_the_supervisor(made: Lab, node: NetworkNode) -> None:
    """The next supervisor reads the refusals from before its start. Renewing the rules keeps them."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    send_datagram(sandbox, METADATA, 53)
    node.close()
    successor = made.node()
    successor.start()
    assert successor.take_refusals() == [Refusal(1, Target(METADATA, "udp", 53, "not_public"), 1)]
    successor.close()
