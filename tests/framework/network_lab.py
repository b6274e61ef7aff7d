"""A laboratory of network namespaces: a machine that plays the host, and another that plays everything beyond it.

::

    sandboxes -- router (made by NetworkNode) -- [host 192.0.2.1] wan0 ---- far0 [far 192.0.2.2, router to 198.51.100.2 and all others]

No packet leaves the laboratory. Sockets are made inside the namespaces and used by the test itself, so nothing has to be run there.
It is set up with the ``ip`` command and not with the code under test.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cloister.linux.netns import open_netns, pin_new_netns, run_in_netns, unpin_netns
from cloister.linux.nftables import Nftables
from cloister.network.gate import EgressGate
from cloister.network.slots import NetworkConfig, NetworkNode

__all__ = [
    "EGRESS_UID",
    "FAR",
    "GATEWAY",
    "HOST",
    "RELAY_UID",
    "UID_BASE",
    "Lab",
    "Namespace",
    "SandboxNamespace",
    "can_connect",
    "disable_rule",
    "lab",
    "next_datagram",
    "open_flows",
    "running_node",
    "send_datagram",
]

T = TypeVar("T")

HOST, GATEWAY, FAR = "192.0.2.1", "192.0.2.2", "198.51.100.2"
RELAY_UID = 0x10000001
EGRESS_UID = 0x10000002
UID_BASE = 0x10000000 + 7 * 65536


class Namespace:
    """A pinned network namespace with its loopback up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        pin_new_netns(path)
        self.fd = open_netns(path)
        self.run("ip link set lo up")

    def run(self, *commands: str) -> str:
        """Run shell commands inside as host root; raise when one fails. Returns what the last one printed."""
        output = ""
        for command in commands:
            done = subprocess.run(["nsenter", f"--net={self.path}", "sh", "-c", command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise AssertionError(f"{command}: {done.stderr}{done.stdout}")
            output = done.stdout
        return output

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on a thread inside."""
        return run_in_netns(self.fd, function)

    def open_socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """An IPv4 socket of this namespace."""
        return self.call(lambda: socket.socket(socket.AF_INET, kind))

    def listen(self, address: str, port: int = 8080) -> socket.socket:
        """A listening TCP socket; the kernel completes the handshake of whoever reaches it."""
        listener = self.open_socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        return listener

    def close(self) -> None:
        """Remove it."""
        os.close(self.fd)
        unpin_netns(self.path)


class SandboxNamespace(Namespace):
    """A network namespace that a child user namespace owns, held by a process, as a slot maker's are."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--user", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{self.process.pid}/{name}").write_text(f"0 {UID_BASE} 65536")
        self.path = Path(f"/proc/{self.process.pid}/ns/net")
        self.fd = open_netns(self.path)

    def run_as(self, uid: int, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command inside, as that user of the sandbox (0: the sandbox's root)."""
        target = ["nsenter", f"--target={self.process.pid}", "--user", "--net", f"--setuid={uid}", f"--setgid={uid}"]
        return subprocess.run([*target, "sh", "-c", command], capture_output=True, text=True, check=False)

    def close(self) -> None:
        """End the process and with it the namespace."""
        os.close(self.fd)
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class Lab:
    """The host and the far machine, joined."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host, self.far = Namespace(directory / "lab" / "host"), Namespace(directory / "lab" / "far")
        no_ipv6 = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"  # its own chatter would be counted
        self.far.run(no_ipv6)
        self.host.run(
            no_ipv6,
            f"ip link add wan0 type veth peer name far0 netns {self.far.path}",
            f"ip address add {HOST}/30 dev wan0",
            "ip link set wan0 up",
            f"ip route add default via {GATEWAY}",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
        )
        self.far.run(f"ip address add {GATEWAY}/30 dev far0", f"ip address add {FAR}/32 dev far0")
        self.far.run("ip link set far0 up", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")

        self._sandboxes: list[SandboxNamespace] = []

    def node(self, instance: int = 0, *, gate: EgressGate | None = None, **settings: Any) -> NetworkNode:
        """A network node whose host is this laboratory's; not started. ``settings`` are fields of :class:`NetworkConfig`."""
        values: dict[str, Any] = {"cidr": None, "upstream_dns": (), "allow_private": (), "relay_uid": RELAY_UID, "egress_uid": EGRESS_UID}
        config = NetworkConfig(instance=instance, run_dir=self.directory / "run" / str(instance), **{**values, **settings})
        return self.host.call(lambda: NetworkNode(config, gate))

    def router(self, instance: int = 0) -> Namespace:
        """The router's namespace of a started node, to look or tamper with; it is the node's to remove."""
        found = Namespace.__new__(Namespace)
        found.path = self.directory / "run" / str(instance) / "netns" / "router"
        found.fd = open_netns(found.path)
        return found

    def sandbox(self) -> SandboxNamespace:
        """A sandbox's namespace, not attached; removed with the laboratory."""
        self._sandboxes.append(SandboxNamespace())
        return self._sandboxes[-1]

    def forget_sandboxes(self, *, keep: int) -> None:
        """Leave those after the first ``keep`` out of the removal: the test has closed them."""
        del self._sandboxes[keep:]

    def close(self) -> None:
        """Remove all."""
        for sandbox in self._sandboxes:
            sandbox.close()
        self.host.close()
        self.far.close()


@contextmanager
def running_node(made: Lab, instance: int = 0, *, gate: EgressGate | None = None, **settings: Any) -> Iterator[NetworkNode]:
    """A started node for the time of a ``with``; whatever it made is removed after it."""
    node = made.node(instance, gate=gate, **settings)
    try:
        node.start()
        yield node
    finally:
        node.stop()


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    """A :class:`Lab` for the time of a ``with``."""
    made = Lab(directory)
    try:
        yield made
    finally:
        made.close()


def can_connect(origin: Namespace, address: str, port: int = 8080, *, timeout_s: float = 1.0, source: str | None = None) -> bool:
    """Whether a TCP connection from ``origin`` is established."""
    with origin.open_socket() as sock:
        sock.settimeout(timeout_s)
        if source is not None:
            sock.bind((source, 0))
        try:
            sock.connect((address, port))
        except OSError:
            return False
        return True


def send_datagram(origin: Namespace, address: str, port: int = 8080, *, source: str | None = None) -> None:
    """Send one UDP datagram; a refusal that comes back as an error is no failure."""
    with origin.open_socket(socket.SOCK_DGRAM) as sock:
        if source is not None:
            sock.bind((source, 0))
        try:
            sock.sendto(b"hello", (address, port))
        except OSError:
            return


def open_flows(sender: socket.socket, address: str, count: int) -> None:
    """Send a datagram to each of the first ``count`` ports, so that the kernel tracks as many connections, if it lets them pass."""
    for port in range(1, count):
        try:
            sender.sendto(b"x", (address, port))
        except OSError:
            continue  # the refusal of an earlier one


def next_datagram(receiver: socket.socket, timeout_s: float = 0.3) -> bytes | None:
    """The next datagram that arrives, or None when none does in time."""
    receiver.settimeout(timeout_s)
    try:
        return receiver.recv(2048)
    except TimeoutError:
        return None


def disable_rule(where: Namespace, table: str, comment: str, *, accept: bool = False) -> None:
    """Remove the rules of that comment, or make them accept where the chain's policy would still drop: what an attacker would like."""

    def body() -> int:
        nft = Nftables()
        rules = [item["rule"] for item in nft.query(f"list table inet {table}") if item.get("rule", {}).get("comment") == comment]
        for rule in rules:
            place = f"inet {table} {rule['chain']} handle {rule['handle']}"
            nft.run(f"replace rule {place} accept" if accept else f"delete rule {place}")
        nft.close()
        return len(rules)

    if not where.call(body):
        raise AssertionError(f"there is no rule {comment!r} in {table}")
