"""The node agent: offers the supervisor of this machine to api processes of its cluster, unprivileged.

``cloister serve --role node`` starts it in the place of an api process.

Serves the gate (cluster/gate.py) and the resolver of this machine's sandboxes. Started as root, it changes to ``uid`` permanently before it
reads any input. Holds no state about sandboxes: after its death the launcher starts another one, and all goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cloister import __version__
from cloister.cluster.base import NodeListener
from cloister.cluster.gate import Gate, GateWays
from cloister.cluster.local import LocalNode, connect_supervisor
from cloister.config.settings import Settings
from cloister.egresswire.values import ANSWER_S, AskValues, parse_answer, render_request
from cloister.errors import UnavailableError, UnusableStateError
from cloister.linux.identity import become_unprivileged, die_with_parent
from cloister.nodewire.methods import METHODS, NodeEvent
from cloister.processes.api_nodes import Resolving, call_timeout_s
from cloister.processes.api_routes import NodeDialer
from cloister.processes.api_values import ValuesServer
from cloister.proxy.reach import Reach
from cloister.store.cluster_keys import NodeKeys, read_node_keys
from cloister.telemetry.logging import configure_logging
from cloister.tls.cluster import API_NAME, names_in, serving_context

__all__ = ["AgentHandover", "NodeAgent", "run_node_agent"]

_log = structlog.get_logger("cloister.agent")


@dataclass(frozen=True)
class AgentHandover:
    """Values and descriptors from the launcher."""

    uid: int | None
    """User and group id to become; None: the process was not started as root."""
    parent: int | None
    listen_fd: int
    node_socket: Path
    values_fd: int | None = None
    """Listening socket where the egress process asks for values of headers; None: there is none."""
    egress_uid: int | None = None
    """User of the egress process, the only one that may use it."""


def run_node_agent(settings: Settings, handover: AgentHandover) -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    become_unprivileged(handover.uid)
    die_with_parent(signal.SIGTERM, handover.parent)
    configure_logging(settings.log_level, settings.log_format, process="agent")
    asyncio.run(_serve(settings, handover))


async def _serve(settings: Settings, handover: AgentHandover) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(fileno=handover.listen_fd))
        agent = NodeAgent(settings, handover.node_socket)
        await agent.start(listener, read_node_keys(settings.data_dir))
        if handover.values_fd is not None and handover.egress_uid is not None:
            await agent.serve_values(stack.enter_context(socket.socket(fileno=handover.values_fd)), handover.egress_uid)
        _log.info("agent.started", pid=os.getpid(), uid=os.getuid())
        try:
            await stopping.wait()
        finally:
            _log.info("agent.stopping")
            await agent.close()


class NodeAgent:
    """The agent's work. Call :meth:`start`, then :meth:`close`."""

    def __init__(self, settings: Settings, node_socket: Path) -> None:
        self._socket = node_socket
        self._link = LocalNode(node_socket, wait_s=settings.node_wait_s, call_timeout_s=call_timeout_s(settings))
        self._reach = Reach(NodeDialer(self._link.calls))
        self._resolving = Resolving()
        self._gate: Gate | None = None
        self._values: ValuesServer | None = None

    async def start(self, listener: socket.socket, keys: NodeKeys) -> None:
        """Connect to the supervisor, and serve. Raises: UnusableStateError: the node's certificate is damaged."""
        try:
            context = serving_context(keys.own, keys.authority)
        except (OSError, ValueError) as error:
            raise UnusableStateError(f"the node's certificate is damaged: {error}", hint="cloister node join") from error
        self._link.start(NodeListener(self._resolving.begin, _nothing_to_hear))
        ways = GateWays(lambda: connect_supervisor(self._socket), self._reach.open, self._dial_volume)
        self._gate = Gate(listener, context, _may_call, ways)
        await self._gate.start({"version": __version__})

    async def serve_values(self, listener: socket.socket, uid: int) -> None:
        """Pass the questions of the egress process, whose user is ``uid``, on to an api process, and its answers back."""
        self._values = ValuesServer(listener, uid, self._fill)
        await self._values.start()

    async def _fill(self, ask: AskValues) -> tuple[str, ...]:
        if self._gate is None:
            raise UnavailableError("the node agent begins")
        line = await self._gate.ask(render_request(ask).decode(), ANSWER_S)
        return parse_answer(line.encode())

    async def _dial_volume(self, params: Any) -> socket.socket:
        (request,) = METHODS["dial_volume"].read_request(params)
        return await self._link.calls.dial_volume(request)

    async def close(self) -> None:
        """Tell the callers, and end all connections."""
        if self._gate is not None:
            await self._gate.leave()
            await self._gate.close()
        if self._values is not None:
            await self._values.close()
        await self._link.close()
        await self._resolving.stop()


def _may_call(connection: ssl.SSLObject) -> bool:
    """Whether the certificate is one of an api process. TLS has verified it, and that it may be used by a client."""
    return API_NAME in names_in(connection.getpeercert())


def _nothing_to_hear(_event: NodeEvent) -> None:
    """The api processes hear the events on connections of their own."""
