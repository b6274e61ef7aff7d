"""The part of the fake node that has the sockets of the sandboxes' resolver."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from cloister.model.connection import LookUp
from cloister.nodewire.requests import DnsSockets, NoteLookUps

__all__ = ["FakeResolver"]


class FakeResolver:
    """Sockets in the network of ``resolver``'s thread, and the look-ups that were told."""

    resolver: ThreadPoolExecutor

    def __init__(self) -> None:
        super().__init__()
        self.look_ups: list[LookUp] = []
        self._dns: tuple[socket.socket, socket.socket] | None = None

    async def dns_sockets(self) -> DnsSockets:
        """See SandboxMethods."""
        if self._dns is None:

            def bind(kind: socket.SocketKind) -> socket.socket:
                sock = socket.socket(socket.AF_INET, kind)
                sock.bind(("127.0.0.1", 53))
                if kind is socket.SOCK_STREAM:
                    sock.listen()
                return sock

            udp, tcp = (self.resolver.submit(bind, kind).result() for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
            self._dns = (udp, tcp)
        udp, tcp = self._dns
        return DnsSockets(udp.dup(), tcp.dup(), ("127.0.0.1",))

    async def note_look_ups(self, request: NoteLookUps) -> None:
        """See SandboxMethods."""
        self.look_ups.extend(request.look_ups)
