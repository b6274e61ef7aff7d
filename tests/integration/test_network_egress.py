"""Targets that a sandbox reaches and does not reach (I3, I4), on a real kernel. All targets would answer; both sides are checked."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import islice
from pathlib import Path

import pytest

from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, GATEWAY, HOST, Lab, can_connect, lab, next_datagram, running_node, send_datagram

pytestmark = pytest.mark.root

REFUSED_TARGETS = (
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.9",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.5.5",
    "172.31.255.1",
    "192.0.0.192",
    "192.168.7.7",
    "198.18.0.9",
    "240.0.0.9",
)
PUBLIC_TARGETS = (FAR, "203.0.113.9", "192.0.2.9", "8.8.8.8", "9.255.255.255", "11.0.0.1", "172.32.0.1", "192.167.255.255", "100.128.0.1")


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


def _far_answers_at(made: Lab, *addresses: str) -> socket.socket:
    made.far.run(*(f"ip address add {address}/32 dev far0" for address in addresses if address != FAR))
    return made.far.listen("0.0.0.0")


def _any_packet(sniffer: socket.socket) -> bool:
    """Whether an IPv4 or IPv6 packet came in on the sniffer."""
    sniffer.settimeout(0.3)
    while True:
        try:
            _, where = sniffer.recvfrom(2048)
        except TimeoutError:
            return False
        if where[1] in (0x0800, 0x86DD) and where[2] != socket.PACKET_OUTGOING:
            return True


def _sniffer(made: Lab) -> socket.socket:
    def body() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    return made.far.call(body)


def test_public_addresses_are_reached_through_nat(made: Lab, node: NetworkNode) -> None:
    """A sandbox reaches public addresses, each documentation range included, and they see the host's address as its source."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with _far_answers_at(made, *PUBLIC_TARGETS) as listener:
        for address in PUBLIC_TARGETS:
            assert can_connect(sandbox, address), address
            connection, peer = listener.accept()
            connection.close()
            assert peer[0] == HOST


@pytest.mark.parametrize("target", REFUSED_TARGETS)
def test_sandbox_cannot_reach_private_link_local_or_reserved_addresses(made: Lab, target: str) -> None:
    """A listener in each refused range answers the host. A sandbox is refused at once, and reaches it if a setting allows the address."""
    with _far_answers_at(made, target):
        sandbox = made.sandbox()
        with running_node(made) as node:
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(made.host, target)
            started = time.monotonic()
            assert not can_connect(sandbox, target, timeout_s=20)
            assert time.monotonic() - started < 15
        with running_node(made, allow_private=(f"{target}/32",)) as node:
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(sandbox, target)


@pytest.mark.parametrize("network", ["203.0.113.0/24", "9.9.9.0/24", "192.167.0.0/16"])
def test_sandbox_cannot_reach_the_hosts_own_network(made: Lab, network: str) -> None:
    """A machine beside the host, in any range, is refused after the next check of the routes. It answers if a setting allows it."""
    near, beside = (str(address) for address in islice(ip_network(network).hosts(), 2))
    length = network.partition("/")[2]
    made.far.run(f"ip address add {beside}/32 dev far0", f"ip route add {near}/32 dev far0")
    sandbox = made.sandbox()
    with made.far.listen(beside):
        with running_node(made) as node:
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(sandbox, beside), "it is the internet as long as the host is not in it"
            made.host.run(f"ip address add {near}/{length} dev wan0")
            assert can_connect(made.host, beside)
            node.refresh()
            assert not can_connect(sandbox, beside)
            made.host.run(f"ip address del {near}/{length} dev wan0")
            node.refresh()
            assert can_connect(sandbox, beside)
        made.host.run(f"ip address add {near}/{length} dev wan0")
        with running_node(made, allow_private=(f"{beside}/32",)) as node:
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(sandbox, beside)
            assert not can_connect(sandbox, GATEWAY), "what the setting does not name stays refused"


def test_ways_to_the_internet_are_no_networks_of_the_host(made: Lab) -> None:
    """A point-to-point link has no router. Its default route, whole or in halves, is the uplink and not the host's network."""
    made.host.run("ip route del default", "ip route add 0.0.0.0/1 dev wan0", "ip route add 128.0.0.0/1 dev wan0")
    sandbox = made.sandbox()
    with running_node(made) as node, made.far.listen(FAR):
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        assert can_connect(sandbox, FAR)
        assert not can_connect(sandbox, GATEWAY)


@pytest.mark.parametrize("route", ["dev wan0 scope global", "nexthop dev wan0 nexthop via {gateway} dev wan0"])
def test_sandbox_cannot_reach_a_network_beside_the_host_by_any_form_of_route(made: Lab, route: str) -> None:
    """A network that the host reaches without a router is its own, in any form of the route."""
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    made.host.run(f"ip route add 203.0.113.0/24 {route.format(gateway=GATEWAY)}")
    sandbox = made.sandbox()
    with running_node(made) as node, made.far.listen("203.0.113.9"):
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        assert can_connect(made.host, "203.0.113.9")
        assert not can_connect(sandbox, "203.0.113.9")
        assert can_connect(sandbox, FAR) == can_connect(made.host, FAR)


def test_sandbox_cannot_send_multicast_or_broadcast(made: Lab, node: NetworkNode) -> None:
    """Nothing of a sandbox's multicast and broadcast datagrams is seen beyond the router."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with _sniffer(made) as sniffer:
        for address in ("224.0.0.251", "239.1.2.3", "255.255.255.255"):
            with sandbox.open_socket(socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
                sock.sendto(b"x", (address, 5353))
        assert not _any_packet(sniffer)


def test_sandbox_cannot_reach_the_host_on_any_address(made: Lab, node: NetworkNode) -> None:
    """A listener of the host on 0.0.0.0 is unreachable on every address of the host: public, new, and the uplink's."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    made.host.run("ip address add 203.0.113.77/32 dev lo", "ip address add 198.51.100.9/24 dev wan0")
    uplink = made.host.run("ip -4 -o address show dev cl0up").split()[3].split("/")[0]
    with made.host.listen("0.0.0.0"):
        for address in (HOST, "203.0.113.77", "198.51.100.9", uplink, "127.0.0.1", node.gateway_address):
            assert not can_connect(sandbox, address, timeout_s=0.3), address
        assert can_connect(made.far, HOST)


def test_allowing_private_networks_never_allows_the_host(made: Lab) -> None:
    """With all of 10/8 and the host's own public address in the setting, the host and other sandboxes stay unreachable."""
    made.host.run("ip address add 10.9.9.9/32 dev lo")
    with running_node(made, allow_private=("10.0.0.0/8", f"{HOST}/32")) as node, made.host.listen("0.0.0.0"):
        one, two = made.sandbox(), made.sandbox()
        node.attach(1, one.fd, PUBLIC_EGRESS)
        other = node.attach(2, two.fd, PUBLIC_EGRESS)
        with two.listen("0.0.0.0"):
            for address in ("10.9.9.9", HOST, other.address, node.gateway_address):
                assert not can_connect(one, address, timeout_s=0.3), address


def test_sandbox_cannot_reach_another_sandbox(made: Lab, node: NetworkNode) -> None:
    """A listener in one sandbox is unreachable from another, by TCP and by UDP."""
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    other = node.attach(2, two.fd, PUBLIC_EGRESS)
    with two.listen("0.0.0.0"), two.open_socket(socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", 8080))
        assert can_connect(two, other.address)
        assert not can_connect(one, other.address, timeout_s=0.3)
        send_datagram(one, other.address)
        assert next_datagram(receiver) is None


def test_sandbox_cannot_use_another_source_address(made: Lab, node: NetworkNode) -> None:
    """Root of a sandbox cannot send with another sandbox's address, or a foreign one. Its own address still works."""
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    other = node.attach(2, two.fd, PUBLIC_EGRESS)
    stolen = (other.address, "198.51.100.77", "10.200.99.99")
    for address in stolen:
        assert one.run_as(0, f"ip address add {address}/32 dev eth0").returncode == 0
    with made.far.listen(FAR), _sniffer(made) as sniffer:
        for address in stolen:
            assert not can_connect(one, FAR, source=address, timeout_s=0.3)
            send_datagram(one, FAR, source=address)
        assert not _any_packet(sniffer)
        assert can_connect(one, FAR)


def test_sandbox_without_internet_sends_not_one_packet(made: Lab, node: NetworkNode) -> None:
    """With internet access off, connections and DNS fail at once. Neither the target nor the resolver sees a packet."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NO_EGRESS)
    udp, tcp = node.dns_sockets()
    with udp, tcp, made.far.listen(FAR), _sniffer(made) as sniffer:
        started = time.monotonic()
        assert not can_connect(sandbox, FAR, timeout_s=20)
        assert not can_connect(sandbox, node.gateway_address, 53, timeout_s=20)
        assert time.monotonic() - started < 15
        for address, port in ((FAR, 8080), (FAR, 53), (node.gateway_address, 53)):
            send_datagram(sandbox, address, port)
        assert sandbox.run_as(0, f"echo > /dev/udp/{FAR}/9").returncode != 99
        assert not _any_packet(sniffer)
        assert next_datagram(udp) is None
        assert node.counters()["offline"] >= 5


def test_taking_the_internet_cuts_established_connections(made: Lab, node: NetworkNode) -> None:
    """A live deny ends an open connection both ways and new ones; giving it back lets new ones through."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.listen(FAR) as listener, sandbox.open_socket() as client, _sniffer(made) as sniffer:
        client.settimeout(1)
        client.connect((FAR, 8080))
        server, _ = listener.accept()
        client.sendall(b"before")
        assert server.recv(100) == b"before"
        time.sleep(0.1)  # the last acknowledgement is on its way
        node.set_egress(1, NO_EGRESS)
        while _any_packet(sniffer):
            pass
        server.sendall(b"inward")
        client.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|reset"):
            client.recv(100)
        client.send(b"outward")
        assert not _any_packet(sniffer)
        assert not can_connect(sandbox, FAR, timeout_s=0.3)
        node.set_egress(1, PUBLIC_EGRESS)
        assert can_connect(sandbox, FAR)
        server.close()


def test_ipv6_is_off_in_the_sandbox_and_in_the_router(made: Lab, node: NetworkNode) -> None:
    """The interfaces have no IPv6 address; the sandbox keeps ::1 on its own loopback, so that programs listening on localhost work."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    assert sandbox.run_as(0, "ip -6 -o address show dev eth0").stdout == ""
    assert "::1/128" in sandbox.run_as(0, "ip -6 -o address show dev lo").stdout
    sandbox.call(lambda: Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("0"))
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    for scope in ("default", "eth0"):
        assert sandbox.call(Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").read_text) == "1\n"
    assert made.router().run("ip -6 -o address show") == ""
    assert made.host.run("ip -6 -o address show dev cl0up") == ""


def test_sandbox_user_may_ping_and_use_low_ports(made: Lab, node: NetworkNode) -> None:
    """An unprivileged user of the sandbox opens an ICMP echo socket, gets an echo from outside, and listens on port 80."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    program = (
        "import socket as s; p = s.socket(s.AF_INET, s.SOCK_DGRAM, s.IPPROTO_ICMP); p.settimeout(1);"
        f"p.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), ('{FAR}', 0)); print(p.recv(99)[0]);"
        "l = s.socket(); l.bind(('127.0.0.1', 80)); l.listen()"
    )
    done = sandbox.run_as(1000, f'/usr/bin/env python3 -c "{program}"')
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
