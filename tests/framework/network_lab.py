"""A laboratory of network namespaces: a machine that plays the host, and another that plays everything beyond it.

::

    sandboxes -- router (made by NetworkNode) -- [host 198.51.100.1] wan0 ---- far0 [far 198.51.100.2, and any other address]

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
from typing import TypeVar

from cloister.linux.netns import open_netns, pin_new_netns, run_in_netns, unpin_netns

__all__ = ["FAR", "HOST", "UID_BASE", "Lab", "Namespace", "SandboxNamespace", "can_connect", "lab"]

T = TypeVar("T")

HOST, FAR = "198.51.100.1", "198.51.100.2"
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

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """An IPv4 socket of this namespace."""
        return self.call(lambda: socket.socket(socket.AF_INET, kind))

    def listen(self, address: str, port: int = 8080) -> socket.socket:
        """A listening TCP socket; the kernel completes the handshake of whoever reaches it."""
        listener = self.socket()
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
        self.host.run(
            f"ip link add wan0 type veth peer name far0 netns {self.far.path}",
            f"ip address add {HOST}/24 dev wan0",
            "ip link set wan0 up",
            f"ip route add default via {FAR}",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
        )
        self.far.run(f"ip address add {FAR}/24 dev far0", "ip link set far0 up", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")

    def close(self) -> None:
        """Remove both."""
        self.host.close()
        self.far.close()


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
    with origin.socket() as sock:
        sock.settimeout(timeout_s)
        if source is not None:
            sock.bind((source, 0))
        try:
            sock.connect((address, port))
        except OSError:
            return False
        return True
