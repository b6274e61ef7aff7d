"""Machines that join a cluster by a token, or try to take the place of a node."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from cloister.control.nodes import Joining, Nodes
from cloister.control.registry import Registry
from cloister.errors import AuthenticationError
from cloister.ids import new_node_id
from cloister.processes.api_cluster import _Enrolment
from cloister.store.cluster_keys import ApiKeys
from cloister.store.sqlite import SqliteStore
from cloister.tls.cluster import make_cluster_authority, make_request
from cloister.tls.joining import JoinToken, make_token, mark

_KEY = b"k" * 32


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Nodes of a cluster that no machine has joined."""
    authority = make_cluster_authority()
    store = await SqliteStore.open(tmp_path / "x.db")

    async def refresh() -> None:
        """No process follows."""

    enrolment = _Enrolment(ApiKeys(authority.certificate, authority.key, b"", _KEY))
    registry = cast("Registry", type("Empty", (), {"all_live": lambda _: iter(())})())
    yield Nodes(store.nodes, registry, lambda _: None, refresh, enrolment)
    await store.close()


def _token(node_id: str = "") -> JoinToken:
    return make_token(_KEY, 60, time.time(), node_id)


def _joining(token: JoinToken, node_id: str, address: str = "10.0.0.1:7000") -> Joining:
    said = Joining(
        token_id=token.token_id,
        expires_at=token.expires_at,
        node_id=node_id,
        address=address,
        request=make_request(node_id)[1],
        nonce="n",
        mark="",
    )
    return replace(said, mark=mark(token, "node", said.said))


async def test_a_token_for_a_new_machine_takes_no_nodes_place(nodes: Nodes) -> None:
    """A node joins again by a token for it, or by its own one: the answer may have been lost."""
    node_id, token = new_node_id(), _token()
    await nodes.join(_joining(token, node_id))
    await nodes.join(_joining(token, node_id))
    with pytest.raises(AuthenticationError, match="joined already"):
        await nodes.join(_joining(_token(), node_id, "10.6.6.6:7000"))
    with pytest.raises(AuthenticationError, match="not one of this cluster"):
        await nodes.join(_joining(_token(new_node_id()), node_id, "10.6.6.6:7000"))
    assert [view.row.address for view in await nodes.list()] == ["10.0.0.1:7000"]
    await nodes.join(_joining(_token(node_id), node_id, "10.0.0.2:7000"))
    assert [view.row.address for view in await nodes.list()] == ["10.0.0.2:7000"]


async def test_a_removed_node_cannot_join_by_its_token(nodes: Nodes) -> None:
    """It was perhaps removed because it is not trusted any more."""
    node_id, token = new_node_id(), _token()
    await nodes.join(_joining(token, node_id))
    await nodes.remove(node_id)
    with pytest.raises(AuthenticationError, match="used this token"):
        await nodes.join(_joining(token, node_id))
    assert await nodes.list() == []
    await nodes.join(_joining(_token(), node_id))


async def test_words_that_are_no_unicode_are_refused(nodes: Nodes) -> None:
    """JSON has halves of characters."""
    joining = replace(_joining(_token(), new_node_id()), token_id="\ud800", mark="\udfff")
    with pytest.raises(AuthenticationError):
        await nodes.join(joining)
