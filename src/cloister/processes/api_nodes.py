"""The side of the api process that faces nodes: on one machine, its supervisor; in a cluster (:mod:`cloister.processes.api_cluster`), many.

Owns the connection, and the resolver of this machine's sandboxes, whose sockets come from the supervisor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import structlog

from cloister.cluster.base import Fleet, NodeClient, NodeListener
from cloister.cluster.local import LocalNode
from cloister.cluster.one import OneNode
from cloister.config.settings import Settings
from cloister.control.nodes import Nodes
from cloister.control.registry import Registry
from cloister.errors import NodeUnreachableError
from cloister.nodewire.methods import NodeEvent
from cloister.processes.api_resolver import Resolving
from cloister.processes.api_routes import NodeDialer
from cloister.processes.api_values import Fill
from cloister.proxy.routes import Dialer, FarDialer
from cloister.store.base import Store

__all__ = ["LocalSide", "NodeSide", "Resolving", "call_timeout_s"]

_log = structlog.get_logger("cloister.api")
Agree = Callable[[NodeClient], Awaitable[None]]
"""Makes the registry and a node agree."""


def call_timeout_s(settings: Settings) -> float:
    """How long a call of a node may take that has no time of its own."""
    return max(60.0, settings.start_timeout_s + 15.0)


class NodeSide(Protocol):
    """See the module."""

    @property
    def fleet(self) -> Fleet:
        """The nodes."""

    @property
    def dialer(self) -> Dialer | FarDialer:
        """Ways into sandboxes."""

    @property
    def is_ready(self) -> bool:
        """Whether requests can be served."""

    def open_nodes(self, store: Store, registry: Registry) -> Nodes:
        """The use cases about nodes."""

    def answer_values(self, fill: Fill) -> None:
        """Answer the egress processes of other machines by ``fill``."""

    async def start(self, stack: AsyncExitStack, agree: Agree, deliver: Callable[[NodeEvent], None]) -> None:
        """Connect; ``stack`` ends it."""

    async def wait(self) -> bool:
        """Return when the nodes are reached, or after a while; whether one is."""

    async def compare(self, agree: Agree) -> None:
        """Agree with the nodes that are connected."""


class LocalSide:
    """The supervisor of this machine. See :class:`NodeSide`."""

    def __init__(self, settings: Settings, node_socket: Path) -> None:
        self._link = LocalNode(node_socket, wait_s=settings.node_wait_s, call_timeout_s=call_timeout_s(settings))
        self._resolving = Resolving()
        self.fleet = OneNode(self._link.calls)
        self.dialer = NodeDialer(self._link.calls)

    @property
    def is_ready(self) -> bool:
        """See the protocol; likewise below."""
        return self._link.is_connected

    def open_nodes(self, store: Store, registry: Registry) -> Nodes:
        """See the protocol."""
        return Nodes(store.nodes, registry, lambda _: None, _nothing_to_follow)

    def answer_values(self, fill: Fill) -> None:
        """See the protocol: this machine's has a socket of its own."""

    async def start(self, stack: AsyncExitStack, agree: Agree, deliver: Callable[[NodeEvent], None]) -> None:
        """See the protocol."""

        async def greet(node: NodeClient) -> None:
            await agree(node)
            await self._resolving.begin(node)

        stack.push_async_callback(self._resolving.stop)
        stack.push_async_callback(self._link.close)
        self._link.start(NodeListener(greet, deliver))

    async def wait(self) -> bool:
        """See the protocol."""
        with contextlib.suppress(NodeUnreachableError):
            await self._link.wait_connected()
        return self._link.is_connected

    async def compare(self, agree: Agree) -> None:
        """See the protocol."""
        if self._link.is_connected:
            await agree(self._link.calls)


async def _nothing_to_follow() -> None:
    """There is no table of nodes."""
