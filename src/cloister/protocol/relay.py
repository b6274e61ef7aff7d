"""The words between the server and the agent's relay to ports on loopback (agent/relay.py). No I/O.

server -> relay   two bytes: the port, most significant byte first
relay -> server   ``RELAYED``, then the program's bytes; or the end of the connection: nothing listens there
"""

from __future__ import annotations

__all__ = ["RELAYED", "REQUEST_BYTES", "port_of", "relay_request"]

RELAYED = b"+"
REQUEST_BYTES = 2


def relay_request(port: int) -> bytes:
    """The request for a port."""
    return port.to_bytes(REQUEST_BYTES, "big")


def port_of(request: bytes) -> int:
    """The port that a request of ``REQUEST_BYTES`` asks for."""
    return int.from_bytes(request, "big")
