"""Passes key and certificate from the launcher (root) to the api process (unprivileged), on an inherited socket pair.

Each version is one packet.

::

    launcher                              api process
    send(pem) ──── SOCK_SEQPACKET ────►   receive_first() before it serves
    send(pem) ────────────────────────►   receive() whenever the socket is readable

The key exists only in the memory of these two processes. Source: unix(7).
"""

from __future__ import annotations

import socket

from cloister.errors import InternalError, UnavailableError

__all__ = ["make_pair", "receive", "receive_first", "send"]

_MAX_BYTES = 160 * 1024
_FIRST_TIMEOUT_S = 10.0


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The launcher's end, which is non-blocking, and the end for the api process."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setblocking(False)
    return mine, theirs


def send(mine: socket.socket, pem: bytes) -> None:
    """Send a version. Raises: UnavailableError if the api process ended or does not read."""
    try:
        mine.send(pem)
    except OSError as error:
        raise UnavailableError(f"the api process does not take the certificate: {error.strerror}") from error


def receive(theirs: socket.socket) -> bytes:
    """The next version; empty if the launcher ended. Raises: BlockingIOError if there is none yet."""
    return theirs.recv(_MAX_BYTES)


def receive_first(theirs: socket.socket) -> bytes:
    """The first version. Makes the socket non-blocking. Raises: InternalError if none arrives."""
    theirs.settimeout(_FIRST_TIMEOUT_S)
    try:
        pem = receive(theirs)
    except OSError as error:
        raise InternalError("the launcher sent no certificate") from error
    theirs.setblocking(False)
    if not pem:
        raise InternalError("the launcher sent no certificate")
    return pem
