"""The network's life: attach, release, adopt after a crash, repair what is half-made, and leave nothing behind (I8)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError, IsolationError
from cloister.linux.conntrack import forget_connections
from cloister.linux.netns import open_current_netns, run_in_netns
from cloister.network.egress import FLOWS_PER_SANDBOX
from cloister.network.plan import MAX_SLOT, NetworkConfig
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, HOST, Lab, can_connect, lab, running_node

pytestmark = pytest.mark.root


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


def _host_objects(made: Lab) -> str:
    return made.host.run("ip -o link; ip route; nft list tables; cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward")


def test_stop_leaves_the_host_as_it_was(made: Lab) -> None:
    """After stop, the host's interfaces, routes, tables and forwarding flags are those of before, and the survey is empty."""
    before = _host_objects(made)
    node = made.node()
    assert node.survey() == []
    node.start()
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, True)
    node.attach(2, two.fd, False)
    kinds = {line.rsplit(" ", 1)[0] for line in node.survey()}
    assert kinds == {"network namespace", "router interface", "host interface", "host route", "host nftables table inet"}
    node.stop()
    assert node.survey() == []
    assert _host_objects(made) == before
    assert not list((made.directory / "run" / "0" / "netns").iterdir())
    for sandbox in (one, two):
        assert "eth0" not in sandbox.run_as(0, "ip -o link").stdout
    node.stop()


def test_the_global_forwarding_switch_is_left_alone(made: Lab, node: NetworkNode) -> None:
    """Forwarding is on for the uplink and for the interface of the default route, and for nothing else."""
    made.host.run("ip link add idle0 type veth peer name idle1")
    flags = made.host.run("cd /proc/sys/net/ipv4/conf; grep -l 1 */forwarding").split()
    assert flags == ["cl0up/forwarding", "wan0/forwarding"]
    assert made.host.run("cat /proc/sys/net/ipv4/ip_forward").strip() == "0"


def test_a_host_that_forwards_already_is_neither_guarded_nor_changed(made: Lab) -> None:
    """Where the administrator has turned forwarding on, stop leaves it on, and other forwarding of the host goes on while a server runs."""
    made.host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    with running_node(made):
        assert "elements" not in made.host.run("nft list set inet cloister0 guarded")
    assert made.host.run("cat /proc/sys/net/ipv4/conf/wan0/forwarding /proc/sys/net/ipv4/ip_forward").split() == ["1", "1"]


def test_refresh_follows_the_hosts_routes(made: Lab, node: NetworkNode) -> None:
    """A way out that appears later is opened and guarded by refresh; a global switch that is turned on later ends the guard."""
    made.host.run("ip link add vpn0 type veth peer name vpn1", "ip link set vpn0 up", "ip route add 203.0.113.0/24 dev vpn0")
    node.refresh()
    assert made.host.run("cat /proc/sys/net/ipv4/conf/vpn0/forwarding").strip() == "1"
    assert "vpn0" in made.host.run("nft list set inet cloister0 guarded")
    made.host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    node.refresh()
    assert "elements" not in made.host.run("nft list set inet cloister0 guarded")


def test_two_servers_share_a_host(made: Lab) -> None:
    """Two instances work side by side; the first to stop keeps the other's sandboxes connected, the last one turns forwarding off."""
    with running_node(made, 0) as first, made.far.listen(FAR):
        with running_node(made, 1) as second:
            one, two = made.sandbox(), made.sandbox()
            assert first.attach(1, one.fd, True).address == "10.200.0.1"
            assert second.attach(1, two.fd, True).address == "10.201.0.1"
            assert can_connect(one, FAR)
            assert can_connect(two, FAR)
            first.stop()
            assert not can_connect(one, FAR, timeout_s=0.3)
            assert can_connect(two, FAR)
            first.start()
            first.attach(1, one.fd, True)
            assert can_connect(one, FAR)
        assert can_connect(one, FAR)
    assert made.host.run("cat /proc/sys/net/ipv4/conf/wan0/forwarding").strip() == "0"


def test_adoption_after_a_crash_keeps_connections(made: Lab) -> None:
    """A new node over the objects of a dead one sees its slots, renews the rules, and an open connection goes on."""
    with running_node(made) as dead, made.far.listen(FAR) as listener:
        online, offline = made.sandbox(), made.sandbox()
        dead.attach(1, online.fd, True)
        dead.attach(2, offline.fd, False)
        with online.open_socket() as client:
            client.settimeout(1)
            client.connect((FAR, 8080))
            server, _ = listener.accept()
            dead.close()
            heir = made.node()
            heir.start()
            assert heir.slots_in_use() == {1, 2}
            client.sendall(b"still here")
            server.settimeout(1)
            assert server.recv(100) == b"still here"
            server.close()
            assert can_connect(online, FAR)
            assert not can_connect(offline, FAR, timeout_s=0.3)
            heir.release(1)
            heir.attach(2, offline.fd, True)
            assert can_connect(offline, FAR)
            heir.stop()
            assert heir.survey() == []


@pytest.mark.parametrize(
    "damage",
    [
        "ip link delete cl0up",
        "nft delete table inet cloister0",
        "ip address flush dev cl0up; ip link set cl0up down",
        "nft flush table inet cloister0",
        "echo 0 > /proc/sys/net/ipv4/conf/wan0/forwarding",
    ],
)
def test_start_repairs_the_hosts_side(made: Lab, node: NetworkNode, damage: str) -> None:
    """Whatever of the host's side is missing or half-made, start makes it whole, and an attached sandbox works again."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, True)
    with made.far.listen(FAR):
        made.host.run(damage)
        node.start()
        assert can_connect(sandbox, FAR)


@pytest.mark.parametrize(
    "damage",
    [
        "ip link delete cl0rt",
        "nft flush ruleset",
        "ip address flush dev lo",
        "nft add element inet cloister online '{ \"cl0s77\" . 10.200.0.77 }'",
    ],
)
def test_start_repairs_the_router(made: Lab, node: NetworkNode, damage: str) -> None:
    """Whatever of the router is missing or left over, start and a second attach make it whole, and nothing of a dead sandbox is left."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, True)
    with made.far.listen(FAR):
        made.router().run(damage)
        node.start()
        node.attach(1, sandbox.fd, True)
        assert can_connect(sandbox, FAR)
        assert node.slots_in_use() == {1}


def test_a_pin_without_a_namespace_is_made_again(made: Lab) -> None:
    """A crash between making the file and mounting the namespace on it is repaired."""
    path = made.directory / "run" / "0" / "netns" / "router"
    path.parent.mkdir(parents=True)
    path.touch()
    with running_node(made) as node:
        assert node.survey()


def test_attach_again_keeps_connections(made: Lab, node: NetworkNode) -> None:
    """Attaching the same namespace a second time repairs and does not cut what is open."""
    sandbox = made.sandbox()
    first = node.attach(1, sandbox.fd, True)
    with made.far.listen(FAR) as listener, sandbox.open_socket() as client:
        client.settimeout(1)
        client.connect((FAR, 8080))
        server, _ = listener.accept()
        assert node.attach(1, sandbox.fd, True) == first
        client.sendall(b"on")
        assert server.recv(10) == b"on"
        server.close()


def test_attach_of_another_namespace_takes_the_slot_over(made: Lab, node: NetworkNode) -> None:
    """A slot whose old sandbox was not released goes wholly to the new one."""
    old, new = made.sandbox(), made.sandbox()
    node.attach(1, old.fd, True)
    node.attach(1, new.fd, True)
    with made.far.listen(FAR):
        assert can_connect(new, FAR)
        assert not can_connect(old, FAR, timeout_s=0.3)
    assert "eth0" not in old.run_as(0, "ip -o link").stdout


def test_a_failed_attach_leaves_nothing(made: Lab, node: NetworkNode) -> None:
    """When the sandbox has an interface of that name already, attach fails by name and the slot is free."""
    sandbox = made.sandbox()
    sandbox.run_as(0, "ip link add eth0 type veth peer name other0")
    with pytest.raises(IsolationError, match="File exists"):
        node.attach(1, sandbox.fd, True)
    assert node.slots_in_use() == set()


def test_fifty_sandboxes_come_and_go(made: Lab, node: NetworkNode) -> None:
    """Fifty cycles from four threads, half of them ended by the namespace's death, leave no interface, element, descriptor or thread."""
    node.attach(1, made.sandbox().fd, True)
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())

    def cycle(slot: int) -> None:
        sandbox = made.sandbox()
        node.attach(slot, sandbox.fd, slot % 3 == 0)
        if slot % 2:
            sandbox.process.kill()
            sandbox.process.wait()
        node.release(slot)
        node.release(slot)
        sandbox.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cycle, range(2, 52)))
    made.forget_sandboxes(keep=1)
    assert node.slots_in_use() == {1}
    assert [line for line in node.survey() if "cl0s" in line] == ["router interface cl0s1"]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before[0]
    assert threading.active_count() == before[1]


def test_a_slots_connections_end_with_it(made: Lab, node: NetworkNode) -> None:
    """A sandbox that used its connection bound up leaves nothing of it to the next one of its slot, or in the host's table."""
    greedy, heir, neighbour = made.sandbox(), made.sandbox(), made.sandbox()
    node.attach(1, greedy.fd, True)
    node.attach(2, neighbour.fd, True)
    with greedy.open_socket(socket.SOCK_DGRAM) as sender, made.far.listen("0.0.0.0"):
        for port in range(1, FLOWS_PER_SANDBOX + 64):
            with contextlib.suppress(OSError):  # the refusal of an earlier one
                sender.sendto(b"x", (FAR, port))
        assert not can_connect(greedy, FAR, timeout_s=0.3)
        assert can_connect(neighbour, FAR)
        tables = (made.host, made.router())
        assert [where.call(lambda: forget_connections(IPv4Address("10.200.9.9"))) for where in tables] == [0, 0]
        node.release(1)
        for where in tables:
            assert where.call(lambda: forget_connections(IPv4Address("10.200.0.1"))) == 0
            assert where.call(lambda: forget_connections(IPv4Address("10.200.0.2"))) == 1
        node.attach(1, heir.fd, True)
        assert can_connect(heir, FAR)


def test_no_thread_of_the_caller_is_left_in_another_namespace(made: Lab, node: NetworkNode) -> None:
    """After every kind of call the calling thread is in the namespace that it was in, and only the node's two own threads are elsewhere."""
    before = _netns_inode()
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, True)
    node.dial_socket(sandbox.fd).close()
    node.set_internet(1, False)
    node.release(1)
    node.survey()
    assert _netns_inode() == before
    deadline = time.monotonic() + 2  # a thread that has ended may take a moment to vanish from the kernel's list
    while len(_tasks_elsewhere(before)) > 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(_tasks_elsewhere(before)) == 2


def _tasks_elsewhere(here: int) -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if (task / "ns" / "net").stat().st_ino != here:
                found.append(task.name)
    return found


def _netns_inode() -> int:
    fd = open_current_netns()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def test_dial_reaches_the_loopback_of_an_offline_sandbox(made: Lab, node: NetworkNode) -> None:
    """A dialled socket connects to a program on the sandbox's loopback, internet or not, and can be used without blocking."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, False)
    with sandbox.listen("127.0.0.1", 49983) as listener, node.dial_socket(sandbox.fd) as client:
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", 49983)) in (0, 115)
        connection, peer = listener.accept()
        connection.close()
        assert peer[0] == "127.0.0.1"


def test_the_first_packet_after_attach_is_not_lost(made: Lab, node: NetworkNode) -> None:
    """A program that connects at once needs no second try: ten sandboxes connect within 0.2 s of being attached."""
    with made.far.listen(FAR):
        for slot in range(1, 11):
            sandbox = made.sandbox()
            node.attach(slot, sandbox.fd, True)
            started = time.monotonic()
            assert can_connect(sandbox, FAR, timeout_s=0.9)
            assert time.monotonic() - started < 0.2


def test_the_mtu_is_that_of_the_way_out(made: Lab) -> None:
    """On a host whose uplink carries 1400 bytes, sandboxes have that MTU too, so that no packet has to be broken up."""
    made.host.run("ip link set wan0 mtu 1400")
    with running_node(made) as node:
        sandbox = made.sandbox()
        node.attach(1, sandbox.fd, True)
        assert "mtu 1400" in sandbox.run_as(0, "ip link show dev eth0").stdout
        assert "mtu 1400" in made.host.run("ip link show dev cl0up")


@pytest.mark.parametrize("setting", ["rp_filter=1", "send_redirects=0", "accept_redirects=0", "route_localnet=0"])
def test_kernel_settings_of_the_router_and_the_uplink(made: Lab, node: NetworkNode, setting: str) -> None:
    """Reverse-path filter on, redirects and loopback routing off: in the router and, but for the first, at the uplink."""
    name, value = setting.split("=")
    node.attach(1, made.sandbox().fd, True)
    for interface in ("all", "default", "cl0s1"):
        assert made.router().run(f"cat /proc/sys/net/ipv4/conf/{interface}/{name}").strip() == value
    if name != "rp_filter":
        assert made.host.run(f"cat /proc/sys/net/ipv4/conf/cl0up/{name}").strip() == value


def test_neighbour_entries_do_not_fill_the_shared_table(made: Lab, node: NetworkNode) -> None:
    """Both ends know each other's hardware address for good: such entries do not count against the limit that all namespaces share."""
    sandbox = made.sandbox()
    slot = node.attach(1, sandbox.fd, True)
    assert sandbox.run_as(0, "ip neighbour").stdout.split()[0] == slot.gateway
    assert "PERMANENT" in sandbox.run_as(0, "ip neighbour").stdout
    router = made.router().run("ip neighbour")
    assert router.count("PERMANENT") == router.count("lladdr") == 2


def test_a_range_that_the_host_routes_elsewhere_is_refused(made: Lab) -> None:
    """A sandbox network that overlaps with the host's own is refused with a remedy; a wider route around it is not."""
    made.host.run("ip link add lan0 type veth peer name lan1", "ip address add 10.200.7.1/24 dev lan0", "ip link set lan0 up")
    with pytest.raises(IsolationError, match=r"10\.200\.7\.0/24.*lan0.*choose another"), running_node(made):
        pass
    made.host.run("ip address flush dev lan0", f"ip route add 10.0.0.0/8 via {FAR}")
    with running_node(made), running_node(made, 1, cidr="172.20.0.0/16") as other:
        assert other.gateway_address == "172.20.32.1"


@pytest.mark.parametrize(
    ("field", "value"),
    [("instance", 7), ("cidr", "10.0.0.0/24"), ("cidr", "nonsense"), ("cidr", "10.0.0.1/16"), ("allow_private", ("10.1.2.3/8",))],
)
def test_nonsense_configuration_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """A configuration that makes no sense is refused before anything is made."""
    values: dict[str, object] = {"instance": 0, "run_dir": tmp_path, "cidr": None, "upstream_dns": (), "allow_private": ()}
    with pytest.raises(InvalidRequestError):
        NetworkNode(NetworkConfig(**{**values, field: value}))  # type: ignore[arg-type]


def test_slots_out_of_range_and_unattached_slots_are_refused(made: Lab, node: NetworkNode) -> None:
    """Slot numbers outside the plan are refused; internet for a slot that nobody has is an error, not a rule for later."""
    sandbox = made.sandbox()
    for slot in (0, MAX_SLOT + 1, -1):
        with pytest.raises(InvalidRequestError):
            node.attach(slot, sandbox.fd, True)
    with pytest.raises(IsolationError, match="not attached"):
        node.set_internet(5, True)
    assert node.attach(MAX_SLOT, sandbox.fd, True).address == "10.200.31.254"


def test_a_failure_inside_a_namespace_reaches_the_caller(made: Lab) -> None:
    """What goes wrong on the namespace's thread is raised to the caller."""
    with pytest.raises(OSError, match="99"):
        run_in_netns(made.far.fd, lambda: socket.create_connection((HOST, 1), source_address=("192.0.2.123", 0)))
