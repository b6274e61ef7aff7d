"""The network's life: attach, release, adopt after a crash, repair what is half-made, and leave nothing behind (I8)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError, IsolationError
from cloister.linux.conntrack import forget_connections
from cloister.linux.netns import open_current_netns, run_in_netns
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.network import veth_pairs
from cloister.network.egress import FLOWS_PER_SANDBOX
from cloister.network.plan import MAX_SLOT
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


def test_adoption_after_a_crash_keeps_connections(made: Lab) -> None:
    """A new node on the objects of a dead one sees its slots and renews the rules. An open connection continues."""
    with running_node(made) as dead, made.far.listen(FAR) as listener:
        online, offline = made.sandbox(), made.sandbox()
        dead.attach(1, online.fd, PUBLIC_EGRESS)
        dead.attach(2, offline.fd, NO_EGRESS)
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
            heir.attach(2, offline.fd, PUBLIC_EGRESS)
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
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
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
    """Start and a second attach repair a router with missing or extra objects. No object of a dead sandbox stays."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.listen(FAR):
        made.router().run(damage)
        node.start()
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
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
    first = node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with made.far.listen(FAR) as listener, sandbox.open_socket() as client:
        client.settimeout(1)
        client.connect((FAR, 8080))
        server, _ = listener.accept()
        assert node.attach(1, sandbox.fd, PUBLIC_EGRESS) == first
        client.sendall(b"on")
        assert server.recv(10) == b"on"
        server.close()


def test_attach_of_another_namespace_takes_the_slot_over(made: Lab, node: NetworkNode) -> None:
    """A slot whose old sandbox was not released goes wholly to the new one."""
    old, new = made.sandbox(), made.sandbox()
    node.attach(1, old.fd, PUBLIC_EGRESS)
    node.attach(1, new.fd, PUBLIC_EGRESS)
    with made.far.listen(FAR):
        assert can_connect(new, FAR)
        assert not can_connect(old, FAR, timeout_s=0.3)
    assert "eth0" not in old.run_as(0, "ip -o link").stdout


def test_a_failed_attach_leaves_nothing(made: Lab, node: NetworkNode) -> None:
    """When the sandbox has an interface of that name already, attach fails by name and the slot is free."""
    sandbox = made.sandbox()
    sandbox.run_as(0, "ip link add eth0 type veth peer name other0")
    with pytest.raises(IsolationError, match="File exists"):
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    assert node.slots_in_use() == set()


@pytest.mark.parametrize("step", ["_open_ping_groups", "settle_carrier"])
def test_a_failure_at_a_later_step_leaves_nothing(made: Lab, node: NetworkNode, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """When a step fails after the pair was made, the pair and the rules are gone, and the next attach works."""

    def fail(*_: object) -> None:
        raise IsolationError("as ordered", step=step)

    sandbox = made.sandbox()
    with monkeypatch.context() as patch:
        patch.setattr(veth_pairs, step, fail)
        with pytest.raises(IsolationError, match="as ordered"):
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    assert node.slots_in_use() == set()
    assert "eth0" not in sandbox.run_as(0, "ip -o link").stdout
    with made.far.listen(FAR):
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        assert can_connect(sandbox, FAR)


def test_fifty_sandboxes_come_and_go(made: Lab, node: NetworkNode) -> None:
    """Fifty cycles from four threads, half of them ended by the namespace's death, leave no interface, element, descriptor or thread."""
    node.attach(1, made.sandbox().fd, PUBLIC_EGRESS)
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())

    def cycle(slot: int) -> None:
        sandbox = made.sandbox()
        node.attach(slot, sandbox.fd, PUBLIC_EGRESS if slot % 3 == 0 else NO_EGRESS)
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


def test_what_is_released_later_is_shut_out_at_once_and_gone_before_it_is_said_to_be(made: Lab, node: NetworkNode) -> None:
    """A dying slot passes no packet more; when ``on_gone`` is called there is no interface, element or connection of it."""
    sandboxes = {slot: made.sandbox() for slot in range(1, 6)}
    with made.far.listen(FAR):
        for slot, sandbox in sandboxes.items():
            node.attach(slot, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(sandbox, FAR)
    gone: dict[int, list[str]] = {}
    done = threading.Event()

    def on_gone(slot: int) -> None:
        gone[slot] = [line for line in made.router().run("ip -o link").splitlines() if f"cl0s{slot}@" in line]
        if len(gone) == len(sandboxes):
            done.set()

    for slot, sandbox in sandboxes.items():
        node.release_later(slot, os.dup(sandbox.fd), partial(on_gone, slot))
        assert not can_connect(sandbox, FAR, timeout_s=0.05)
    assert done.wait(5)
    assert gone == {slot: [] for slot in sandboxes}
    assert node.slots_in_use() == set()
    for where in (made.host, made.router()):
        assert [where.call(partial(forget_connections, IPv4Address(f"10.200.0.{slot}"))) for slot in sandboxes] == [0] * 5


def test_a_slot_that_is_taken_while_it_dies_waits_for_its_end(made: Lab, node: NetworkNode) -> None:
    """The next sandbox of the slot works at once, and the old one's removal does not touch it."""
    first, second = made.sandbox(), made.sandbox()
    with made.far.listen(FAR):
        node.attach(1, first.fd, PUBLIC_EGRESS)
        node.release_later(1, None, lambda: None)
        node.attach(1, second.fd, PUBLIC_EGRESS)
        assert can_connect(second, FAR)
        assert not can_connect(first, FAR, timeout_s=0.1)
        time.sleep(0.5)
        assert can_connect(second, FAR)


def test_connections_of_a_slot_that_ended_unseen_are_forgotten(made: Lab) -> None:
    """A server dies, then its sandbox. The next server's sandbox in that slot has no connection of the old one."""
    with running_node(made) as dead, made.far.listen(FAR):
        old, new = made.sandbox(), made.sandbox()
        dead.attach(1, old.fd, PUBLIC_EGRESS)
        assert can_connect(old, FAR)
        dead.close()
        heir = made.node()
        heir.start()
        old.process.kill()
        old.process.wait()
        heir.attach(1, new.fd, PUBLIC_EGRESS)
        for where in (made.host, made.router()):
            assert where.call(partial(forget_connections, IPv4Address("10.200.0.1"))) == 0
        assert can_connect(new, FAR)
        heir.release(1)
        heir.close()


def test_a_slots_connections_end_with_it(made: Lab, node: NetworkNode) -> None:
    """A sandbox used all its connections. The next one of its slot, and the host's table, have none of them."""
    greedy, heir, neighbour = made.sandbox(), made.sandbox(), made.sandbox()
    node.attach(1, greedy.fd, PUBLIC_EGRESS)
    node.attach(2, neighbour.fd, PUBLIC_EGRESS)
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
        node.attach(1, heir.fd, PUBLIC_EGRESS)
        assert can_connect(heir, FAR)


def test_no_thread_of_the_caller_is_left_in_another_namespace(made: Lab, node: NetworkNode) -> None:
    """Every call leaves the calling thread in its namespace. Only the node's own three threads are elsewhere."""
    before = _netns_inode()
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    node.dial_socket(sandbox.fd).close()
    node.set_egress(1, NO_EGRESS)
    node.release(1)
    node.survey()
    assert _netns_inode() == before
    deadline = time.monotonic() + 2  # a thread that has ended may take a moment to vanish from the kernel's list
    while len(_tasks_elsewhere(before)) > 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(_tasks_elsewhere(before)) == 3, _tasks_elsewhere(before)


def _tasks_elsewhere(here: int) -> list[str]:
    """Threads of this process in another network namespace, by name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if (task / "ns" / "net").stat().st_ino != here:
                found.append(names.get(int(task.name), f"{task.name}, none of Python's"))
    return found


def _netns_inode() -> int:
    fd = open_current_netns()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def test_dial_reaches_the_loopback_of_an_offline_sandbox(made: Lab, node: NetworkNode) -> None:
    """A dialled socket connects to a program on the sandbox's loopback, internet or not, unblocking; the program sees an IPv4 peer."""
    sandbox = made.sandbox()
    node.attach(1, sandbox.fd, NO_EGRESS)
    with sandbox.listen("127.0.0.1", 49983) as listener, node.dial_socket(sandbox.fd) as client:
        client.setblocking(False)
        assert client.connect_ex(("::ffff:127.0.0.1", 49983)) in (0, 115)
        connection, peer = listener.accept()
        connection.close()
        assert peer[0] == "127.0.0.1"


def test_the_first_packet_after_attach_is_not_lost(made: Lab, node: NetworkNode) -> None:
    """A program that connects at once needs no retry: ten sandboxes connect before the kernel's retransmission after 1 s."""
    with made.far.listen(FAR):
        for slot in range(1, 11):
            sandbox = made.sandbox()
            node.attach(slot, sandbox.fd, PUBLIC_EGRESS)
            assert can_connect(sandbox, FAR, timeout_s=0.9)


def test_slots_out_of_range_and_unattached_slots_are_refused(made: Lab, node: NetworkNode) -> None:
    """Slot numbers outside the plan are refused. Internet access for an unused slot is an error, not a later rule."""
    sandbox = made.sandbox()
    for slot in (0, MAX_SLOT + 1, -1):
        with pytest.raises(InvalidRequestError):
            node.attach(slot, sandbox.fd, PUBLIC_EGRESS)
    with pytest.raises(IsolationError, match="not attached"):
        node.set_egress(5, PUBLIC_EGRESS)
    assert node.attach(MAX_SLOT, sandbox.fd, PUBLIC_EGRESS).address == "10.200.31.254"


def test_a_failure_inside_a_namespace_reaches_the_caller(made: Lab) -> None:
    """The caller gets the exceptions of the namespace's thread."""
    with pytest.raises(OSError, match="99"):
        run_in_netns(made.far.fd, lambda: socket.create_connection((HOST, 1), source_address=("192.0.2.123", 0)))
