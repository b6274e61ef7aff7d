"""The node on this machine: a client of the supervisor's unix socket that outlives the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from cloister.cluster.link import NodeLink
from cloister.nodewire.framing import NodeChannel

__all__ = ["LocalNode", "connect_supervisor"]


class LocalNode(NodeLink):
    """The node whose supervisor listens on the unix socket at ``path``. See :class:`NodeLink`."""

    def __init__(self, path: Path, *, wait_s: float = 5.0, call_timeout_s: float = 60.0) -> None:
        super().__init__(wait_s=wait_s, call_timeout_s=call_timeout_s)
        self._path = path

    async def _connect(self) -> NodeChannel:
        return await connect_supervisor(self._path)


async def connect_supervisor(path: Path) -> NodeChannel:
    """A connection to the supervisor at ``path``. Raises: OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return NodeChannel(sock)
