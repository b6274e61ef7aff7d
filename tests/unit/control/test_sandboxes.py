"""Use cases about sandboxes when callers are cancelled, the node refuses or an end overtakes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.control.registry import Registry
from cloister.control.sandboxes import NewSandbox, Sandboxes, SandboxPolicy
from cloister.control.templates import Templates
from cloister.errors import NoCapacityError, NodeUnreachableError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.node import EndedSandbox
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.store.base import Sandbox, Team
from cloister.store.sqlite import SqliteStore

NEW = NewSandbox(template="base", timeout_s=100)


@dataclass
class Node:
    """A node that does what it is told, after ``gate`` is open."""

    live: dict[str, float] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    async def reserve(self, _template: str) -> str:
        """A fresh id."""
        return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create."""
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.live[request.sandbox_id] = request.end_at
        return SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="base",
            runtime="r",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
        )

    async def kill(self, sandbox_id: str, _reason: EndReason) -> bool:
        """Kill."""
        await self.gate.wait()
        if isinstance(self.fault, NodeUnreachableError):
            raise self.fault
        return self.live.pop(sandbox_id, None) is not None

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """Prolong."""
        await self.gate.wait()
        self.live[sandbox_id] = end_at

    async def templates(self) -> list[Template]:
        """One template."""
        return [Template(template_id="t", name="base", build_id="b", layers=())]


@dataclass
class Plane:
    """The use cases over the node."""

    node: Node
    store: SqliteStore
    registry: Registry
    sandboxes: Sandboxes

    async def stored(self) -> list[Sandbox]:
        """What the store has once all is written."""
        await self.sandboxes.close()
        await self.registry.close()
        return list(await self.store.list_sandboxes(ended_since=0))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """Use cases on a store with one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.add_team(Team(team_id="team", name="team", created_at=0))
    node = Node()
    node.gate.set()
    registry = Registry(store, retention_s=100)
    client = cast("NodeClient", node)
    yield Plane(node, store, registry, Sandboxes(client, registry, Templates(client, store), SandboxPolicy(max_per_team=3)))
    await registry.close()
    await store.close()


async def cancel_early(node: Node, work: Any) -> None:
    """Begin ``work``, cancel it while the node is at it, then let the node go on."""
    node.gate.clear()
    task = asyncio.create_task(work)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    node.gate.set()


async def test_a_cancelled_kill_is_carried_through(plane: Plane) -> None:
    """A client that goes away during its kill leaves no sandbox that only the node knows of."""
    row = await plane.sandboxes.create("team", NEW)
    await cancel_early(plane.node, plane.sandboxes.kill("team", row.sandbox_id))
    (stored,) = await plane.stored()
    assert (stored.state, plane.node.live) == (SandboxState.ENDED, {})


async def test_a_cancelled_set_timeout_leaves_one_truth(plane: Plane) -> None:
    """A client that goes away during its set-timeout leaves node, memory and store with the same end."""
    row = await plane.sandboxes.create("team", NEW)
    await cancel_early(plane.node, plane.sandboxes.set_timeout("team", row.sandbox_id, 5000))
    (stored,) = await plane.stored()
    assert stored.end_at == plane.node.live[row.sandbox_id] == plane.sandboxes.get("team", row.sandbox_id).end_at
    assert stored.end_at > time.time() + 4000


async def test_a_cancelled_creation_is_killed(plane: Plane) -> None:
    """A client that goes away during its creation leaves nothing, unless an idempotency key lets it come back."""
    await cancel_early(plane.node, plane.sandboxes.create("team", NEW))
    assert [row.state for row in await plane.stored()] == [SandboxState.ENDED]
    assert plane.node.live == {}
    kept = NewSandbox(template="base", timeout_s=100, idempotency_key="k")
    await cancel_early(plane.node, plane.sandboxes.create("team", kept))
    row = await plane.sandboxes.create("team", kept)
    assert list(plane.node.live) == [row.sandbox_id]


async def test_a_refused_creation_counts_for_nothing(plane: Plane) -> None:
    """Creations that the node refuses do not use up the team's limit."""
    plane.node.fault = NoCapacityError("full")
    for _ in range(5):
        with pytest.raises(NoCapacityError):
            await plane.sandboxes.create("team", NEW)
    plane.node.fault = None
    await plane.sandboxes.create("team", NEW)
    assert plane.registry.count("team") == 1


async def test_creations_at_once_keep_the_limit(plane: Plane) -> None:
    """Of many creations at the same moment no more succeed than the limit allows."""
    done = await asyncio.gather(*(plane.sandboxes.create("team", NEW) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(row, Sandbox) for row in done) == 3


async def test_a_kill_with_the_node_away(plane: Plane) -> None:
    """A kill while the node is away ends the sandbox for clients at once and is remembered for the node's return."""
    row = await plane.sandboxes.create("team", NEW)
    plane.node.fault = NodeUnreachableError("away")
    await plane.sandboxes.kill("team", row.sandbox_id)
    with pytest.raises(SandboxNotFoundError, match="was killed"):
        plane.sandboxes.get("team", row.sandbox_id)
    assert [stored.end_reason for stored in await plane.stored()] == [EndReason.KILLED]


async def test_an_end_is_told_once(plane: Plane) -> None:
    """The first word on why a sandbox ended stays, and listeners hear it once."""
    heard: list[str] = []
    plane.registry.on_end(heard.append)
    row = await plane.sandboxes.create("team", NEW)
    plane.sandboxes.ended(EndedSandbox(sandbox_id=row.sandbox_id, reason=EndReason.CRASHED, message="out of memory"))
    plane.sandboxes.ended(EndedSandbox(sandbox_id=row.sandbox_id, reason=EndReason.KILLED))
    assert heard == [row.sandbox_id]
    with pytest.raises(SandboxNotFoundError, match=r"crashed \(out of memory\)"):
        plane.sandboxes.get("team", row.sandbox_id)


async def test_the_same_key_at_once_gives_one_sandbox(plane: Plane) -> None:
    """Creations with the same idempotency key at the same moment give the same sandbox."""
    new = NewSandbox(template="base", timeout_s=100, idempotency_key="k")
    rows = await asyncio.gather(*(plane.sandboxes.create("team", new) for _ in range(5)))
    assert {row.sandbox_id for row in rows} == set(plane.node.live)
    assert len(plane.node.live) == 1
