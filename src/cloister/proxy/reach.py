"""Ways into sandboxes' networks: connects to a port of a sandbox, by the sockets that the node makes.

Holds no connection. On some runtimes these sockets do not reach loopback; the agent relays to programs that listen there alone
(``protocol/dialled.py``).
"""

from __future__ import annotations

import asyncio
import socket

from cloister.protocol.agent import AGENT_PORTS
from cloister.protocol.relay import RELAYED, relay_request
from cloister.proxy.routes import Dialer

__all__ = ["CONNECT_TIMEOUT_S", "Reach"]

_ATTEMPT_DELAYS_S = (0.02, 0.05, 0.1, 0.15, 0.2)
"""Delays between attempts on a closed port, because clients often connect shortly before a program listens."""
CONNECT_TIMEOUT_S = 5.0


class Reach:
    """Connects by the sockets of ``dialer``."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def open(self, sandbox_id: str, port: int) -> socket.socket:
        """A connected socket. Raises: OSError: no program listens there; and the dialer's errors."""
        for delay_s in (*_ATTEMPT_DELAYS_S, None):
            try:
                return await self._try(sandbox_id, port)
            except ConnectionRefusedError:
                if delay_s is None:
                    raise
                await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _try(self, sandbox_id: str, port: int) -> socket.socket:
        """Try the sandbox's addresses one after another, then the agent's relay. Raises: OSError, of the last one."""
        dialled = await self._dialer.dial(sandbox_id)
        last = len(dialled.hosts) - 1
        for at, host in enumerate(dialled.hosts):
            try:
                return await self._connect(dialled.socket, (host, port))
            except ConnectionRefusedError:
                if at == last and (dialled.relay_port is None or port in AGENT_PORTS):
                    raise
            dialled = await self._dialer.dial(sandbox_id)  # a refused socket cannot connect again
        return await self._connect(dialled.socket, (dialled.hosts[0], dialled.relay_port), relay_to=port)

    async def _connect(self, sock: socket.socket, address: tuple[str, int | None], relay_to: int | None = None) -> socket.socket:
        """One attempt; a failure closes ``sock``. Raises: OSError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(sock, address)
                if relay_to is not None:
                    await loop.sock_sendall(sock, relay_request(relay_to))
                    if await loop.sock_recv(sock, 1) != RELAYED:
                        raise ConnectionRefusedError
        except BaseException:
            sock.close()
            raise
        return sock
