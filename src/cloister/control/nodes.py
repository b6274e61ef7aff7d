"""The nodes of a cluster: they join, are listed, drained and removed, and are lost. This module has the rules; it knows no HTTP.

A lost node's sandboxes end: no process knows whether they run. Paused ones stay, because their disks outlive a loss; they cannot be resumed
until the node is back. When it is back, the reconciliation (control/reconcile.py) adopts what is live in the registry, and ends the rest.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from cloister.control.registry import Registry
from cloister.errors import AlreadyExistsError, AuthenticationError, InvalidRequestError, NotFoundError
from cloister.ids import is_node_id
from cloister.model.addresses import parse_listen
from cloister.model.cluster import ClusterNode
from cloister.model.node import NodeInfo
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.store.nodes import NodeStore

__all__ = ["Enrolment", "Joined", "Joining", "NodeSight", "NodeStatus", "NodeView", "Nodes"]

_log = structlog.get_logger("cloister.control")
_RUNS = frozenset({SandboxState.CREATING, SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.RESUMING})


class NodeStatus(StrEnum):
    """The state of a node, in the words of the published API."""

    READY = "ready"
    DRAINING = "draining"
    CONNECTING = "connecting"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, kw_only=True)
class Joining:
    """A node's request to join. Nothing of it is checked."""

    token_id: str
    expires_at: int
    node_id: str
    address: str
    request: str
    """For a certificate (PKCS #10, PEM)."""
    nonce: str
    mark: object

    @property
    def said(self) -> dict[str, str]:
        """The part that its mark is on."""
        return {"node_id": self.node_id, "address": self.address, "request": self.request, "nonce": self.nonce}


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The answer: certificates as PEM, and the mark by which the node knows the cluster."""

    certificate: str
    authority: str
    mark: str

    def said(self, nonce: str) -> dict[str, str]:
        """The part that its mark is on: the answer, and the number that the node chose for this request."""
        return {"nonce": nonce, "certificate": self.certificate, "authority": self.authority}


class Enrolment(Protocol):
    """The cluster's authority and its tokens."""

    def check(self, joining: Joining) -> bool:
        """Whether the token is for this node to join again. Raises: AuthenticationError: the request has no mark of its token."""

    def certify(self, joining: Joining) -> Joined:
        """The certificate of a request that was checked. Raises: InvalidRequestError."""


@dataclass(frozen=True, kw_only=True)
class NodeSight:
    """What this process sees of a node."""

    is_connected: bool
    is_lost: bool
    trouble: str
    info: NodeInfo | None
    is_draining: bool = False
    templates: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A node with its sandboxes that have not ended."""

    row: ClusterNode
    status: NodeStatus
    sight: NodeSight
    sandboxes: Sequence[Sandbox]


class Nodes:
    """The use cases about nodes."""

    def __init__(
        self,
        store: NodeStore,
        registry: Registry,
        see: Callable[[str], NodeSight | None],
        refresh: Callable[[], Awaitable[None]],
        enrolment: Enrolment | None = None,
    ) -> None:
        """``refresh`` has this process follow the store now; other processes do within seconds.

        ``enrolment`` None: this server is no cluster, so no node can join.
        """
        self._refresh = refresh
        self._store = store
        self._registry = registry
        self._see = see
        self._enrolment = enrolment

    async def join(self, joining: Joining) -> Joined:
        """Let a machine join; or a node join again with another address or key, by a token for it.

        Raises: NotFoundError (no cluster), AuthenticationError, InvalidRequestError.
        """
        if self._enrolment is None:
            raise NotFoundError("this server is no cluster", hint="cloister cluster init, then serve with --role api")
        is_for_node = self._enrolment.check(joining)
        if not is_node_id(joining.node_id):
            raise InvalidRequestError("nodeID is not the id of a node")
        host, port = parse_listen(joining.address)
        if port == 0 or host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            raise InvalidRequestError("address must be one that the api processes reach, with a port", hint="--address HOST:PORT")
        known = {row.node_id: row for row in await self._store.list_nodes()}.get(joining.node_id)
        if known is not None and not is_for_node and known.token_id != joining.token_id:  # its answer may have been lost
            raise AuthenticationError(f"{known.node_id} has joined already", hint=f"cloister cluster token --node {known.node_id}")
        answer = self._enrolment.certify(joining)
        row = ClusterNode(node_id=joining.node_id, address=joining.address, joined_at=time.time(), token_id=joining.token_id)
        try:
            await self._store.add_node(row)
        except AlreadyExistsError as error:
            raise AuthenticationError("another node has used this token", hint="cloister cluster token makes another one") from error
        await self._refresh()
        _log.info("node.joined", node_id=row.node_id, address=row.address)
        return answer

    async def list(self) -> Sequence[NodeView]:
        """All nodes."""
        rows = await self._store.list_nodes()
        live: dict[str | None, list[Sandbox]] = {}
        for row in self._registry.all_live():
            live.setdefault(row.node_id, []).append(row)
        return [self._view(row, live.get(row.node_id, [])) for row in rows]

    async def get(self, node_id: str) -> NodeView:
        """One node. Raises: NotFoundError."""
        for view in await self.list():
            if view.row.node_id == node_id:
                return view
        raise NotFoundError(f"there is no node {node_id[:64]}", hint="cloister nodes")

    def _view(self, row: ClusterNode, sandboxes: Sequence[Sandbox]) -> NodeView:
        sight = self._see(row.node_id) or NodeSight(is_connected=False, is_lost=False, trouble="it joined just now", info=None)
        status = NodeStatus.READY if sight.is_connected else NodeStatus.UNHEALTHY if sight.is_lost else NodeStatus.CONNECTING
        is_draining = sight.is_draining or (sight.info is not None and sight.info.drain is not None)
        if status is NodeStatus.READY and is_draining:
            status = NodeStatus.DRAINING
        return NodeView(row=row, status=status, sight=sight, sandboxes=sandboxes)

    async def drain(self, node_id: str, *, is_on: bool) -> None:
        """Give the node no new sandboxes, or again. Raises: NotFoundError."""
        if not await self._store.set_draining(node_id, is_draining=is_on):
            raise NotFoundError(f"there is no node {node_id[:64]}", hint="cloister nodes")
        await self._refresh()
        _log.info("node.draining" if is_on else "node.takes_sandboxes", node_id=node_id)

    async def remove(self, node_id: str) -> None:
        """Forget a node that has no sandbox. Raises: NotFoundError; InvalidRequestError: it has some."""
        view = await self.get(node_id)
        if view.sandboxes:
            raise InvalidRequestError(f"node {node_id} has {len(view.sandboxes)} sandboxes", hint="drain it, and end or resume them first")
        await self._store.remove_node(node_id)
        await self._refresh()
        _log.info("node.removed", node_id=node_id)

    def lost(self, node_id: str) -> None:
        """End the sandboxes that ran on a lost node. Of the api processes, the leader does it; once more for what came meanwhile."""
        if not self._registry.is_leader:
            return
        for row in [one for one in self._registry.all_live() if one.node_id == node_id and one.state in _RUNS]:
            self._registry.end(row.sandbox_id, EndReason.LOST, f"node {node_id} does not answer")
