"""The nodes of a cluster, as the api process uses them. Imported only where the role of the server is ``api``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import structlog

from cloister.cluster.fleet import ClusterFleet, FleetHooks
from cloister.cluster.remote import NodeAddress, RemoteNode
from cloister.config.settings import Settings
from cloister.control.homes import StoredHomes
from cloister.control.nodes import Joined, Joining, Nodes, NodeSight
from cloister.control.registry import Registry
from cloister.egresswire.values import AskValues
from cloister.errors import AuthenticationError, CloisterError, PermissionDeniedError
from cloister.model.addresses import parse_listen
from cloister.model.cluster import ClusterNode
from cloister.nodewire.methods import NodeEvent
from cloister.processes.api_nodes import Agree, call_timeout_s
from cloister.processes.api_values import Fill, answer_values
from cloister.store.base import Store
from cloister.store.cluster_keys import ApiKeys, read_api_keys
from cloister.template.stock import is_stock
from cloister.tls.cluster import ClusterAuthority, calling_context, name_of_node
from cloister.tls.joining import JoinToken, check_mark, mark, token_of

__all__ = ["ClusterSide"]

_log = structlog.get_logger("cloister.cluster")


class ClusterSide:
    """See :class:`~cloister.processes.api_nodes.NodeSide`."""

    def __init__(self, settings: Settings) -> None:
        """Raises: NotFoundError: there is no cluster in the data directory. UnusableStateError: its files are damaged."""
        self._settings = settings
        self._keys = read_api_keys(settings.data_dir)
        self._context = calling_context(self._keys.own, self._keys.authority)
        self._homes: StoredHomes | None = None
        self._store: Store | None = None
        self._nodes: Nodes | None = None
        self._fill: Fill | None = None
        self.fleet = ClusterFleet(self, is_stock)
        self.dialer = _FarPorts(self.fleet)

    # ---- Homes, which are known when the store is open ----

    def of_sandbox(self, sandbox_id: str) -> str | None:
        """See :class:`~cloister.cluster.fleet.Homes`; likewise below."""
        return self._known.of_sandbox(sandbox_id)

    async def of_build(self, build_id: str) -> str | None:
        """See the protocol."""
        return await self._known.of_build(build_id)

    async def of_volume(self, volume_id: str) -> str | None:
        """See the protocol."""
        return await self._known.of_volume(volume_id)

    async def move(self, sandbox_id: str, node_id: str) -> None:
        """See the protocol."""
        await self._known.move(sandbox_id, node_id)

    @property
    def _known(self) -> StoredHomes:
        assert self._homes is not None, "the store is opened first"
        return self._homes

    # ---- NodeSide ----

    @property
    def is_ready(self) -> bool:
        """See :class:`~cloister.processes.api_nodes.NodeSide`; likewise below."""
        return self.fleet.is_ready

    def open_nodes(self, store: Store, registry: Registry) -> Nodes:
        """See the protocol."""
        self._store, self._homes = store, StoredHomes(registry, store)
        self._nodes = Nodes(store.nodes, registry, self._see, self.fleet.refresh, _Enrolment(self._keys))
        return self._nodes

    def _see(self, node_id: str) -> NodeSight | None:
        member = self.fleet.members.get(node_id)
        if member is None:
            return None
        is_connected = member.link.is_connected and not member.is_lost
        templates = [template.name for template in member.templates]
        return NodeSight(
            is_connected=is_connected,
            is_lost=member.is_lost,
            trouble=member.link.trouble,
            info=member.info,
            is_draining=member.row.is_draining,
            templates=templates,
        )

    def answer_values(self, fill: Fill) -> None:
        """See the protocol."""
        self._fill = fill

    async def start(self, stack: AsyncExitStack, agree: Agree, deliver: Callable[[NodeEvent], None]) -> None:
        """See the protocol."""
        assert self._store is not None, "the store is opened first"
        assert self._nodes is not None, "the store is opened first"
        stack.push_async_callback(self.fleet.close)
        await self.fleet.start(FleetHooks(self._store.nodes.list_nodes, self._link, agree, deliver, self._nodes.lost))

    def _link(self, row: ClusterNode) -> RemoteNode:
        host, port = parse_listen(row.address)
        address = NodeAddress(host, port, name_of_node(row.node_id))
        answer = partial(self._answer, row.node_id)
        return RemoteNode(address, self._context, answer, wait_s=self._settings.node_wait_s, call_timeout_s=call_timeout_s(self._settings))

    async def _answer(self, node_id: str, line: str) -> str:
        """Answer a question of a node's egress process, for sandboxes of that node alone."""
        return (await answer_values(line.encode(), partial(self._fill_of, node_id))).decode()

    async def _fill_of(self, node_id: str, ask: AskValues) -> tuple[str, ...]:
        if self._fill is None or self.of_sandbox(ask.sandbox_id) != node_id:
            raise PermissionDeniedError("the sandbox is not on this node")
        return await self._fill(ask)

    async def wait(self) -> bool:
        """See the protocol."""
        await self.fleet.wait_connected(self._settings.node_wait_s)
        return bool(await self.fleet.each())

    async def compare(self, agree: Agree) -> None:
        """See the protocol."""
        nodes = await self.fleet.each()
        outcomes = await asyncio.gather(*(agree(node) for _, node in nodes), return_exceptions=True)
        for (node_id, _), outcome in zip(nodes, outcomes, strict=True):
            if isinstance(outcome, CloisterError):  # it keeps no other node from its comparison
                _log.warning("node.not_compared", node_id=node_id, error=str(outcome))
            elif outcome is not None:
                raise outcome


class _FarPorts:
    """See :class:`~cloister.proxy.routes.FarDialer`."""

    def __init__(self, fleet: ClusterFleet) -> None:
        self._fleet = fleet

    async def open_far(self, sandbox_id: str, port: int) -> tuple[asyncio.Transport, bytes]:
        """See the protocol."""
        stream = await self._fleet.open_port(sandbox_id, port)
        return stream.transport, stream.early


class _Enrolment:
    """See :class:`~cloister.control.nodes.Enrolment`."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._authority = ClusterAuthority(keys.authority, keys.authority_key)

    def check(self, joining: Joining) -> bool:
        """See the protocol; likewise below."""
        _, is_for_node = self._token(joining)
        if joining.expires_at < time.time():
            raise AuthenticationError("the token has expired", hint="cloister cluster token makes another one")
        return is_for_node

    def _token(self, joining: Joining) -> tuple[JoinToken, bool]:
        """The token whose mark a request has, and whether it is for this node alone. Raises: AuthenticationError: none."""
        key, token_id, expires_at = self._keys.join_key, joining.token_id, joining.expires_at
        with contextlib.suppress(AuthenticationError):
            token = token_of(key, token_id, expires_at, joining.node_id)
            check_mark(token, "node", joining.said, joining.mark)
            return token, joining.node_id != ""
        token = token_of(key, token_id, expires_at)
        check_mark(token, "node", joining.said, joining.mark)
        return token, False

    def certify(self, joining: Joining) -> Joined:
        """See the protocol."""
        token, _ = self._token(joining)
        certificate = self._authority.certify_node(joining.node_id, joining.request)
        authority = self._keys.authority.decode()
        answer = Joined(certificate=certificate, authority=authority, mark="")
        return replace(answer, mark=mark(token, "cluster", answer.said(joining.nonce)))
