"""Each hardening rule of the network, one attack a test.

The attack fails with the rules in place, and with any one of its layers alone. It *succeeds* once every layer that stops it is gone. So a
rule that is lost, or that never did anything, fails here.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cloister.linux.netlink import NetlinkSocket, attributes_of
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS, EgressPolicy
from cloister.network.egress import FLOWS_PER_SANDBOX
from cloister.network.host_side import HOST_MAC, ROUTER_MAC
from cloister.network.slots import NetworkNode
from framework.network_lab import (
    FAR,
    GATEWAY,
    HOST,
    RELAY_UID,
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

Attack = Callable[[], bool]


@dataclass(frozen=True)
class Layer:
    """A rule by its comment; ``accept``: make it accept, because the chain's policy drops as well."""

    side: str
    comment: str
    accept: bool = False


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


def _disable(made: Lab, layer: Layer) -> None:
    instance = int(layer.side[-1])
    if layer.side.startswith("host"):
        disable_rule(made.host, f"cloister{instance}", layer.comment, accept=layer.accept)
    else:
        disable_rule(made.router(instance), "cloister", layer.comment, accept=layer.accept)


def _layers_hold(made: Lab, nodes: list[NetworkNode], attack: Attack, *layers: Layer) -> None:
    """The attack fails with every layer, with each one alone, and succeeds without any."""
    assert not attack(), "the attack succeeds against the whole ruleset"
    for kept in layers if len(layers) > 1 else ():
        for layer in layers:
            if layer is not kept:
                _disable(made, layer)
        assert not attack(), f"{kept} alone does not hold"
        for node in nodes:
            node.start()  # renews every rule
    for layer in layers:
        _disable(made, layer)
    assert attack(), "the attack fails even without the rules: the test proves nothing"


def _udp_arrives(origin: Namespace, receiver: socket.socket, address: str, port: int, *, source: str | None = None) -> Attack:
    def attack() -> bool:
        send_datagram(origin, address, port, source=source)
        return next_datagram(receiver) is not None

    return attack


def _bound(where: Namespace, address: str, port: int) -> socket.socket:
    receiver = where.open_socket(socket.SOCK_DGRAM)
    receiver.bind((address, port))
    return receiver


def test_refused_destinations(made: Lab, node: NetworkNode) -> None:
    """Router and host each refuse private destinations."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    made.far.run("ip address add 169.254.169.254/32 dev far0")
    with made.far.listen("169.254.169.254"):

        def attack() -> bool:
            return can_connect(sandbox, "169.254.169.254", timeout_s=0.3)

        _layers_hold(made, [node], attack, Layer("router0", "refused"), Layer("host0", "refused"))


def test_host_addresses(made: Lab, node: NetworkNode) -> None:
    """The host's addresses are refused with its networks, and before and after the routing decision."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.host.listen("0.0.0.0"):

        def attack() -> bool:
            return can_connect(sandbox, HOST, timeout_s=0.3)

        layers = (Layer("router0", "host-network"), Layer("host0", "host-address"), Layer("host0", "host-itself"))
        _layers_hold(made, [node], attack, *layers)


def test_networks_of_the_host(made: Lab, node: NetworkNode) -> None:
    """Router and host each refuse a machine of a network that the host is in, though its address is of a range that is not private."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.listen(GATEWAY):

        def attack() -> bool:
            return can_connect(sandbox, GATEWAY, timeout_s=0.3)

        _layers_hold(made, [node], attack, Layer("router0", "host-network"), Layer("host0", "host-network"))


def test_ports_that_the_host_publishes_for_containers(made: Lab, node: NetworkNode) -> None:
    """A port of the host's address that is translated to somewhere else is refused, since the address is judged before the translation."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    made.host.run(
        "nft add table ip published",
        "nft add chain ip published pre '{ type nat hook prerouting priority dstnat; }'",
        f"nft add rule ip published pre ip daddr {HOST} tcp dport 9090 dnat to {FAR}:8080",
    )
    with made.far.listen(FAR):

        def attack() -> bool:
            return can_connect(sandbox, HOST, 9090, timeout_s=0.3)

        _layers_hold(made, [node], attack, Layer("router0", "host-network"), Layer("host0", "host-address"))


def test_neighbour(made: Lab) -> None:
    """Sandboxes of one server cannot reach each other, even where a setting allows their whole range."""
    with running_node(made, allow_private=("10.0.0.0/8",)) as node:
        one, two = made.sandbox(), made.sandbox()
        node.attach(1, one.fd, PUBLIC_EGRESS)
        other = node.attach(2, two.fd, PUBLIC_EGRESS)
        with _bound(two, "0.0.0.0", 8080) as receiver:
            attack = _udp_arrives(one, receiver, other.address, 8080)
            _layers_hold(made, [node], attack, Layer("router0", "neighbour"))


def test_neighbour_by_private_range(made: Lab, node: NetworkNode) -> None:
    """With the default setting the sandboxes' own range is refused a second time, as private."""
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    other = node.attach(2, two.fd, PUBLIC_EGRESS)
    with _bound(two, "0.0.0.0", 8080) as receiver:
        attack = _udp_arrives(one, receiver, other.address, 8080)
        _layers_hold(made, [node], attack, Layer("router0", "neighbour"), Layer("router0", "refused"))


def test_neighbour_instance(made: Lab) -> None:
    """Sandboxes of two servers on one host cannot reach each other, even where both settings allow it: four rules, each enough."""
    allowed = ("10.0.0.0/8",)
    with running_node(made, 0, allow_private=allowed) as first, running_node(made, 1, allow_private=allowed) as second:
        one, two = made.sandbox(), made.sandbox()
        first.attach(1, one.fd, PUBLIC_EGRESS)
        other = second.attach(1, two.fd, PUBLIC_EGRESS)
        with _bound(two, "0.0.0.0", 8080) as receiver:
            attack = _udp_arrives(one, receiver, other.address, 8080)
            layers = (
                Layer("host0", "neighbour-instance"),
                Layer("host1", "range-from-outside"),
                Layer("host1", "unasked"),
                Layer("router1", "unasked", accept=True),
            )
            _layers_hold(made, [first, second], attack, *layers)


def test_spoofed_source_of_a_neighbour(made: Lab, node: NetworkNode) -> None:
    """A source address that is not the interface's own is dropped, though it is another sandbox's that may use the internet."""
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    other = node.attach(2, two.fd, PUBLIC_EGRESS)
    assert one.run_as(0, f"ip address add {other.address}/32 dev eth0").returncode == 0
    # The kernel's reverse-path filter stops it as well; the attack turns it off each time, so that the rules stand alone.
    made.router().run("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
    router = made.router()

    def attack() -> bool:
        router.run("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
        return _udp_arrives(one, receiver, FAR, 8080, source=other.address)()

    with _bound(made.far, FAR, 8080) as receiver:
        _layers_hold(made, [node], attack, Layer("router0", "spoofed"), Layer("router0", "offline"))


def test_spoofed_source_of_a_stranger_at_the_host(made: Lab, node: NetworkNode) -> None:
    """Were the router's checks lost, the host would still drop what does not come from the sandboxes' range."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    assert sandbox.run_as(0, "ip address add 9.9.9.9/32 dev eth0").returncode == 0
    for layer in (Layer("router0", "spoofed"), Layer("router0", "offline")):
        _disable(made, layer)
    for where in (made.router(), made.host):
        where.run("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
    with _bound(made.far, FAR, 8080) as receiver:
        _layers_hold(made, [], _udp_arrives(sandbox, receiver, FAR, 8080, source="9.9.9.9"), Layer("host0", "spoofed"))


def test_offline_outward(made: Lab, node: NetworkNode) -> None:
    """Internet off: nothing goes out."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NO_EGRESS)
    with _bound(made.far, FAR, 8080) as receiver:
        _layers_hold(made, [node], _udp_arrives(sandbox, receiver, FAR, 8080), Layer("router0", "offline"))


def test_offline_dns(made: Lab, node: NetworkNode) -> None:
    """Internet off: the resolver is not asked either."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NO_EGRESS)
    udp, tcp = node.dns_sockets()
    with udp, tcp:
        _layers_hold(made, [node], _udp_arrives(sandbox, udp, node.gateway_address, 53), Layer("router0", "offline"))


def test_offline_inward(made: Lab, node: NetworkNode) -> None:
    """Internet taken: nothing of an established connection comes in either."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with _bound(made.far, FAR, 8080) as server, sandbox.open_socket(socket.SOCK_DGRAM) as client:
        client.connect((FAR, 8080))
        client.send(b"hello")
        peer = server.recvfrom(100)[1]
        node.set_egress(1, NO_EGRESS)

        def attack() -> bool:
            server.sendto(b"inward", peer)
            return next_datagram(client) is not None

        _layers_hold(made, [node], attack, Layer("router0", "inbound-offline"))


def test_unasked_traffic_from_the_network(made: Lab, node: NetworkNode) -> None:
    """A machine that routes the sandboxes' range to the host reaches no sandbox: three rules, each enough."""
    sandbox = made.sandbox()
    slot = node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    made.far.run(f"ip route add 10.200.0.0/16 via {HOST}")
    with _bound(sandbox, "0.0.0.0", 8080) as receiver:
        layers = (Layer("host0", "range-from-outside"), Layer("host0", "unasked"), Layer("router0", "unasked", accept=True))
        _layers_hold(made, [node], _udp_arrives(made.far, receiver, slot.address, 8080), *layers)


def test_guard(made: Lab, node: NetworkNode) -> None:
    """The forwarding that sandboxes' answers need does not make the host a router for its neighbours."""
    inner = Namespace(made.directory / "lab" / "inner")
    try:
        made.host.run(
            f"ip link add lan0 type veth peer name in0 netns {inner.path}",
            "ip address add 172.31.0.1/24 dev lan0",
            "ip link set lan0 up",
        )
        inner.run("ip address add 172.31.0.2/24 dev in0", "ip link set in0 up", "ip route add default via 172.31.0.1")
        made.far.run(f"ip route add 172.31.0.0/24 via {HOST}")
        with _bound(inner, "0.0.0.0", 8080) as receiver:
            _layers_hold(made, [node], _udp_arrives(made.far, receiver, "172.31.0.2", 8080), Layer("host0", "guard"))
    finally:
        inner.close()


def test_resolver_is_for_sandboxes_only(made: Lab, node: NetworkNode) -> None:
    """Only sandboxes reach the resolver's port by the uplink."""
    udp, tcp = node.dns_sockets()
    with udp, tcp:
        attack = _udp_arrives(made.host, udp, node.gateway_address, 53)
        _layers_hold(made, [node], attack, Layer("router0", "router-from-host"))


def test_router_itself(made: Lab, node: NetworkNode) -> None:
    """Nothing of the router but its resolver port answers a sandbox."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with _bound(made.router(), "0.0.0.0", 8080) as receiver:
        attack = _udp_arrives(sandbox, receiver, node.gateway_address, 8080)
        _layers_hold(made, [node], attack, Layer("router0", "router-itself", accept=True))


def test_sandbox_cannot_connect_to_the_callers_address(made: Lab, node: NetworkNode) -> None:
    """The server reaches a sandbox by a socket for it alone, without internet too; the address it comes from answers no sandbox."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NO_EGRESS)
    with sandbox.listen("0.0.0.0"):
        sock, address = node.call_socket(1)
        with sock:
            sock.settimeout(5)
            sock.connect((address, 8080))
            caller = sock.getsockname()[0]
    with _bound(made.router(), "0.0.0.0", 8080) as receiver:
        attack = _udp_arrives(sandbox, receiver, caller, 8080)
        _layers_hold(made, [node], attack, Layer("router0", "caller", accept=True), Layer("router0", "router-itself", accept=True))


def test_flows(made: Lab, node: NetworkNode) -> None:
    """One sandbox cannot fill the connection table that all share: beyond the bound it is refused, a neighbour is not."""
    greedy, neighbour = made.sandbox(), made.sandbox()
    node.attach(1, greedy.fd, PUBLIC_EGRESS)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    with greedy.open_socket(socket.SOCK_DGRAM) as sender, made.far.listen("0.0.0.0"):
        open_flows(sender, "203.0.113.9", FLOWS_PER_SANDBOX + 64)
        assert can_connect(neighbour, FAR)
        for place in (made.host, made.router()):
            assert FLOWS_PER_SANDBOX <= _tracked(place) < FLOWS_PER_SANDBOX + 16
        attack = partial(can_connect, greedy, FAR, timeout_s=0.3)
        _layers_hold(made, [node], attack, Layer("router0", "flows"), Layer("host0", "flows"))


def test_flows_of_questions(made: Lab, node: NetworkNode) -> None:
    """Questions to the resolver are tracked too, so a sandbox that uses up its connections asks no more."""
    greedy = made.sandbox()
    node.attach(1, greedy.fd, PUBLIC_EGRESS)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    with greedy.open_socket(socket.SOCK_DGRAM) as sender, _bound(made.router(), node.gateway_address, 53) as receiver:
        open_flows(sender, "203.0.113.9", FLOWS_PER_SANDBOX + 64)
        attack = _udp_arrives(greedy, receiver, node.gateway_address, 53)
        _layers_hold(made, [], attack, Layer("router0", "flows-of-questions"))


def _tracked(place: Namespace) -> int:
    return place.call(lambda: int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()))


def test_connections_are_forgotten_soon(made: Lab, node: NetworkNode) -> None:
    """UDP queries of a sandbox, or of the relay for it, are tracked for 15 s. Those of the host keep the host's time."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    made.far.run("ip address add 203.0.113.9/32 dev far0")
    for port, origin, uid in ((50001, sandbox, 0), (50002, made.host, RELAY_UID), (50003, made.host, 0)):
        send = f"import os, socket; os.setuid({uid}); socket.socket(2, 2).sendto(b'x', ('203.0.113.9', {port}))"
        origin.run(f'{sys.executable} -c "{send}"')
    assert made.host.call(partial(_seconds_left, 50001)) <= 15
    assert made.router().call(partial(_seconds_left, 50001)) <= 15
    assert made.host.call(partial(_seconds_left, 50002)) <= 15
    assert made.host.call(partial(_seconds_left, 50003)) > 15


def _seconds_left(port: int) -> int:
    """Of the one tracked connection to that port, in the calling thread's namespace. Source: <linux/netfilter/nfnetlink_conntrack.h>."""
    netlink = NetlinkSocket(12)
    try:
        dumped = [attributes_of(payload[4:]) for payload in netlink.dump("list connections", 0x101, bytes([socket.AF_INET, 0, 0, 0]))]
    finally:
        netlink.close()
    (found,) = [int.from_bytes(entry[7], "big") for entry in dumped if port.to_bytes(2, "big") in entry[1]]
    return found


def test_invalid_packets_leave_with_no_private_source(made: Lab, node: NetworkNode) -> None:
    """A packet that belongs to no connection is not translated, so it would carry the sandbox's own address out: it is dropped."""
    sandbox = made.sandbox()
    slot = node.attach(1, sandbox.fd, PUBLIC_EGRESS)

    def raw(kind: int, protocol: int) -> Callable[[], socket.socket]:
        return lambda: socket.socket(kind, socket.SOCK_RAW, protocol)

    reset = struct.pack("!HHIIBBHHH", 1234, 8080, 1, 1, 5 << 4, 0x04, 0, 0, 0)
    with (
        sandbox.call(raw(socket.AF_INET, socket.IPPROTO_TCP)) as sender,
        made.far.call(raw(socket.AF_INET, socket.IPPROTO_TCP)) as receiver,
    ):

        def attack() -> bool:
            sender.sendto(_with_checksum(slot.address, FAR, reset), (FAR, 0))
            seen = next_datagram(receiver)
            return seen is not None and seen[12:16] == socket.inet_aton(slot.address)

        _layers_hold(made, [node], attack, Layer("router0", "invalid"))


def _with_checksum(source: str, destination: str, segment: bytes) -> bytes:
    whole = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, len(segment)) + segment
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    total = (total & 0xFFFF) + (total >> 16)
    return segment[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + segment[18:]


@pytest.mark.parametrize("policy", [PUBLIC_EGRESS, EgressPolicy(public=True, deny=("203.0.113.9/32",))])
def test_ipv6(made: Lab, node: NetworkNode, policy: EgressPolicy) -> None:
    """Were IPv6 turned on everywhere by mistake, router and host would each still drop it, with lists of addresses or without."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, policy)
    router = made.router()
    for where in (made.far, made.host, router, sandbox):
        where.call(lambda: [path.write_text("0") for path in Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6")])
    made.host.run("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding", "ip address add fd00:1::1/64 dev wan0 nodad")
    made.host.run("ip address add fd00:2::1/64 dev cl0up nodad", "ip route add fd00:3::/64 via fd00:2::2")
    made.far.run("ip address add fd00:1::2/64 dev far0 nodad", "ip route add default via fd00:1::1")
    router.run("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding", "ip address add fd00:2::2/64 dev cl0rt nodad")
    router.run("ip address add fd00:3::1/64 dev cl0s1 nodad", "ip route add default via fd00:2::1")
    # Neighbour discovery is dropped by other rules; an attacker would know the hardware addresses, which are constants.
    router.run(f"ip neighbour add fd00:2::1 lladdr {HOST_MAC.hex(':')} dev cl0rt nud permanent")
    inside = "ip address add fd00:3::2/64 dev eth0 nodad; ip route add default via fd00:3::1"
    inside += f"; ip neighbour add fd00:3::1 lladdr {ROUTER_MAC.hex(':')} dev eth0 nud permanent"
    assert sandbox.run_as(0, inside).returncode == 0
    receiver = made.far.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    receiver.bind(("::", 8080))

    def attack() -> bool:
        router.run("for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done")
        with sandbox.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sender:
            sender.sendto(b"hello", ("fd00:1::2", 8080))
        return next_datagram(receiver, 1.5) is not None

    with receiver:
        assert not attack()
        _disable(made, Layer("router0", "ipv6"))
        assert not attack()
        _disable(made, Layer("host0", "ipv6"))
        assert attack()
