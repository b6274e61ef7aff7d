"""One call of an operator's command on the supervisor of this host. Needs root; the supervisor sends such a peer no events."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.session import NodeSession
from cloister.config.settings import Settings
from cloister.errors import NodeUnreachableError
from cloister.model.drain import Drained, DrainState
from cloister.node.instance import instance_of
from cloister.nodewire.framing import NodeChannel
from cloister.nodewire.methods import NodeEvent
from cloister.nodewire.requests import ChangeDrain

__all__ = ["ask_node", "change_drain", "drain_state", "supervisor_socket"]

_T = TypeVar("_T")
_ANSWER_S = 30.0
"""For methods that have no time of their own."""


def change_drain(settings: Settings, *, is_on: bool, pause: bool, reason: str) -> Drained:
    """See :meth:`~cloister.nodewire.methods.SandboxMethods.change_drain`. Raises: NodeUnreachableError: no server runs."""
    request = ChangeDrain(is_on=is_on, pause=pause, reason=reason)
    return asyncio.run(ask_node(supervisor_socket(settings), lambda node: node.change_drain(request), timeout_s=_ANSWER_S))


def drain_state(settings: Settings) -> DrainState | None:
    """The drain of the node; None: there is none. Raises: NodeUnreachableError: no server runs."""
    return asyncio.run(ask_node(supervisor_socket(settings), lambda node: node.ping(), timeout_s=_ANSWER_S)).drain


def supervisor_socket(settings: Settings) -> Path:
    """Where the supervisor of the data directory listens, if it runs."""
    number = instance_of(settings.data_dir, settings.run_dir)
    return settings.run_dir / ("none" if number is None else str(number)) / "supervisor.sock"


async def ask_node(path: Path, ask: Callable[[NodeClient], Awaitable[_T]], *, timeout_s: float) -> _T:
    """The answer of the supervisor at the socket ``path``. Raises: NodeUnreachableError, and the errors of the call."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, os.fspath(path))
    except OSError as error:
        sock.close()
        raise NodeUnreachableError("no server runs on this data directory", hint="is it another --data-dir?") from error
    session = NodeSession(NodeChannel(sock), timeout_s)
    reading = asyncio.create_task(session.run(NodeListener(_nothing_to_settle, _hear_nothing)))
    try:
        return await ask(session.calls)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _nothing_to_settle(_node: NodeClient) -> None:
    """A client without state."""


def _hear_nothing(_event: NodeEvent) -> None:
    """The supervisor sends no events to root."""
