"""Hostile clients of a server: raw connections that send what they like, or nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["connect", "connections", "rest_of", "rss_mib", "status_of"]


def connect(url: str, *, source: str = "127.0.0.1", receive_bytes: int | None = None) -> socket.socket:
    """A connection from the loopback address ``source``; ``receive_bytes``: the size of its receive buffer."""
    parts = urlsplit(url)
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(30)
    sock.bind((source, 0))
    sock.connect((parts.hostname or "", parts.port or 80))
    return sock


@contextlib.contextmanager
def connections(url: str, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """``count`` connections on each of which ``first`` was sent, while the block lasts."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(connect(url)) for _ in range(count)]
        if first:
            for sock in made:
                with contextlib.suppress(ConnectionError):  # it had to make room already
                    sock.sendall(first)
        yield made


def rest_of(sock: socket.socket) -> bytes:
    """All that comes until the server ends the connection; a reset is such an end."""
    seen = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            seen += part
    return seen


def status_of(answer: bytes) -> int:
    """The status of an answer."""
    assert answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answer
    return int(answer[9:12])


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
