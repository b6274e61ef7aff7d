"""A pretend public domain: commands that are run in it resolve every name below the domain, or below ``localhost``, to this
machine's loopback, and every name that they ask for is noted.

They run in a mount namespace with a resolv.conf of their own, which names a small DNS server of the test's. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

__all__ = ["PretendDomain", "pretend_domain"]

_ENTER = 'mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf && shift && exec "$@"'


@dataclass(frozen=True)
class PretendDomain:
    """The domain while it lasts."""

    name: str
    directory: Path
    asked: set[str]
    """Every name that was asked for."""

    def run(self, *command: str, env: dict[str, str], cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command that sees the domain, with exactly the variables ``env`` and PATH and HOME; its exit code is not checked."""
        words = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.directory), *command]
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env}
        return subprocess.run(
            words, env=environ, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )


def _answer(query: bytes, domain: str, asked: set[str]) -> bytes:
    record = DNSRecord.parse(query)
    reply = record.reply()
    name = str(record.q.qname).rstrip(".").lower()
    asked.add(name)
    if not f".{name}".endswith((f".{domain}", ".localhost")):
        reply.header.rcode = RCODE.NXDOMAIN
    elif record.q.qtype == QTYPE.A:
        reply.add_answer(RR(record.q.qname, QTYPE.A, rdata=A("127.0.0.1"), ttl=0))
    return bytes(reply.pack())


@contextlib.contextmanager
def pretend_domain(name: str, directory: Path) -> Iterator[PretendDomain]:
    """The domain ``name``; its files are in ``directory``."""
    asked: set[str] = set()
    address = f"127.{os.getpid() % 250 + 2}.{os.getpid() // 250 % 250}.53"
    (directory / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:2 attempts:2\n")
    (directory / "nsswitch.conf").write_text("hosts: files dns\n")

    def serve() -> None:
        while True:
            query, peer = sock.recvfrom(4096)
            if not query:
                return
            sock.sendto(_answer(query, name, asked), peer)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield PretendDomain(name, directory, asked)
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (address, 53))
            thread.join()
