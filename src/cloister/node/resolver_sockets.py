"""The sockets of the sandboxes' resolver, which the api process serves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from cloister.node.background import WorkerThreads
from cloister.nodewire.requests import DnsSockets

__all__ = ["ResolverSockets"]


class ResolverSockets:
    """Opens the sockets when the api process asks for them first, and keeps them. Event loop only."""

    def __init__(
        self, open_sockets: Callable[[], tuple[socket.socket, socket.socket]], upstreams: tuple[str, ...], threads: WorkerThreads
    ) -> None:
        """``open_sockets`` gives the UDP and the listening TCP socket. It blocks."""
        self._open = open_sockets
        self._upstreams = upstreams
        self._threads = threads
        self._lock = asyncio.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self.are_served = asyncio.Event()
        """Set once an api process has the sockets, so that sandboxes can resolve names."""

    async def get(self) -> DnsSockets:
        """Copies of the sockets, which the caller closes. Raises: IsolationError, OSError."""
        async with self._lock:  # requests at the same moment open them once
            if self._sockets is None:
                self._sockets = await self._threads.run(self._open)
                self.are_served.set()
        udp, tcp = self._sockets
        return DnsSockets(udp.dup(), tcp.dup(), self._upstreams)
