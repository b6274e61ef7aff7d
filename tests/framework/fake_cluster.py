"""A cluster over fake nodes: real gates, certificates and links, in one event loop, without a server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from cloister.cluster.base import NodeClient
from cloister.cluster.fleet import ClusterFleet, FleetHooks
from cloister.cluster.remote import Answer, NodeAddress, RemoteNode
from cloister.config.settings import Settings
from cloister.model.cluster import ClusterNode
from cloister.nodewire.methods import NodeEvent
from cloister.processes.node_agent import NodeAgent
from cloister.store.cluster_keys import NodeKeys
from cloister.tls.cluster import ClusterAuthority, calling_context, make_cluster_authority, make_request, name_of_node
from framework.fake_node import FakeNode
from framework.waiting import eventually_async

__all__ = ["FakeCluster", "GatedNode", "fake_cluster", "gated_node"]


@dataclass
class GatedNode:
    """A fake node behind a gate. ``agent`` can be closed and begun again."""

    node: FakeNode
    authority: ClusterAuthority
    listener: socket.socket
    keys: NodeKeys
    agent: NodeAgent

    @property
    def row(self) -> ClusterNode:
        """As the store has it."""
        host, port = self.listener.getsockname()
        return ClusterNode(node_id=self.node.node_id, address=f"{host}:{port}", joined_at=1.0, token_id=self.node.node_id)

    async def restart_agent(self) -> None:
        """Begin another agent on the same listener."""
        self.agent = NodeAgent(Settings(node_wait_s=2.0), self.node.path)
        await self.agent.start(self.listener, self.keys)

    def link(self, name: str = "", answer: Answer | None = None) -> RemoteNode:
        """A link to it that is not started; ``name`` is what its certificate must have."""
        host, port = self.listener.getsockname()
        context = calling_context(self.authority.certify_caller(), self.authority.certificate)
        return RemoteNode(NodeAddress(host, port, name or name_of_node(self.node.node_id)), context, answer, wait_s=5.0)


@contextlib.asynccontextmanager
async def gated_node(path: Path, authority: ClusterAuthority | None = None) -> AsyncIterator[GatedNode]:
    """A fake node, its supervisor's socket at ``path``, while the block lasts."""
    authority = authority or make_cluster_authority()
    node = FakeNode(path)
    await node.start()
    key, request = make_request(node.node_id)
    keys = NodeKeys(authority.certificate, key + authority.certify_node(node.node_id, request).encode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = GatedNode(node, authority, listener, keys, NodeAgent(Settings(node_wait_s=2.0), path))
        await made.agent.start(listener, keys)
        try:
            yield made
        finally:
            await made.agent.close()
            await node.close()


@dataclass
class FakeCluster:
    """The fleet over the nodes, and its homes: the nodes of sandboxes as the registry would have them."""

    nodes: dict[str, GatedNode]
    fleet: ClusterFleet = field(init=False)
    homes: dict[str, str] = field(default_factory=dict)
    heard: list[NodeEvent] = field(default_factory=list)
    greeted: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Names of templates that no node may offer."""

    def of_sandbox(self, sandbox_id: str) -> str | None:
        """See :class:`~cloister.cluster.fleet.Homes`; likewise below."""
        return self.homes.get(sandbox_id)

    async def of_build(self, build_id: str) -> str | None:
        """See the protocol."""
        return self.homes.get(build_id)

    async def of_volume(self, volume_id: str) -> str | None:
        """See the protocol."""
        return self.homes.get(volume_id)

    async def move(self, sandbox_id: str, node_id: str) -> None:
        """See the protocol."""
        self.homes[sandbox_id] = node_id

    async def rows(self) -> list[ClusterNode]:
        """The table of nodes."""
        return [one.row for one in self.nodes.values()]

    async def greet(self, node: NodeClient) -> None:
        """Note the connection."""
        self.greeted.append((await node.ping()).node_id)

    def link(self, row: ClusterNode) -> RemoteNode:
        """The link to a node."""
        return self.nodes[row.node_id].link()


@contextlib.asynccontextmanager
async def fake_cluster(directory: Path, count: int) -> AsyncIterator[FakeCluster]:
    """A fleet that has reached so many nodes, while the block lasts."""
    authority = make_cluster_authority()
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(gated_node(directory / f"{number}.sock", authority)) for number in range(count)]
        cluster = FakeCluster({one.node.node_id: one for one in made})
        cluster.fleet = ClusterFleet(cluster, lambda template: template.name not in cluster.refused)
        await cluster.fleet.start(FleetHooks(cluster.rows, cluster.link, cluster.greet, cluster.heard.append, cluster.lost.add))
        stack.push_async_callback(cluster.fleet.close)
        await eventually_async(lambda: all(one.link.is_connected for one in cluster.fleet.members.values()))
        yield cluster
