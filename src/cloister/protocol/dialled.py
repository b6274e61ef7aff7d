"""A way to the ports of a sandbox: a socket, and the addresses that it reaches. Supervisor and api process share it. No I/O."""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = ["Dialled", "on_loopback"]


@dataclass(frozen=True)
class Dialled:
    """A new, unconnected TCP socket, which the holder closes. Another attempt needs another one: a refused socket cannot connect again."""

    socket: socket.socket
    hosts: tuple[str, ...]
    """Addresses of the sandbox for this socket, in the order in which to try them."""
    relay_port: int | None = None
    """The port of the first address at which the agent relays to ports on loopback (agent/relay.py); None: ``hosts`` are on loopback."""


def on_loopback(sock: socket.socket) -> Dialled:
    """For a socket inside the sandbox's network. Nearly all programs listen on 127.0.0.1; some, such as Node on ``localhost``, only on ::1.

    An IPv6 socket reaches an IPv4 address in its mapped form (RFC 4291, 2.5.5.2).
    """
    return Dialled(sock, ("::ffff:127.0.0.1", "::1") if sock.family == socket.AF_INET6 else ("127.0.0.1",))
