"""Use cases about sandboxes when callers are cancelled, the node refuses or an end overtakes them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.cluster.one import OneNode
from cloister.control import registry as registry_module
from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.registry import Registry
from cloister.control.sandboxes import RUNTIME_KEY, NewSandbox, Sandboxes
from cloister.control.team_traffic import TeamTraffics
from cloister.control.templates import Templates
from cloister.errors import NoCapacityError, NodeUnreachableError, PermissionDeniedError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.node import EndedSandbox
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.team import Team
from cloister.model.template import Template
from cloister.nodewire.requests import Kill, Reserve, SetDeadline, SetTeamTraffic
from cloister.store.sqlite import SqliteStore
from framework.recorded_lifecycle import RecordedLifecycle

NEW = NewSandbox(template="base", timeout_s=100)


@dataclass
class Node:
    """A node that does what it is told, after ``gate`` is open."""

    live: dict[str, float] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None
    reserved: list[str] = field(default_factory=list)

    async def set_team_traffic(self, _request: SetTeamTraffic) -> None:
        """No team is bounded."""

    async def reserve(self, _request: Reserve) -> str:
        """A fresh id."""
        self.reserved.append(new_sandbox_id())
        return self.reserved[-1]

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create."""
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.live[request.sandbox_id] = request.end_at
        return SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="base",
            runtime=request.runtime or "r",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
        )

    async def kill(self, request: Kill) -> bool:
        """Kill."""
        await self.gate.wait()
        if isinstance(self.fault, NodeUnreachableError):
            raise self.fault
        return self.live.pop(request.sandbox_id, None) is not None

    async def set_deadline(self, request: SetDeadline) -> None:
        """Prolong."""
        await self.gate.wait()
        self.live[request.sandbox_id] = request.end_at

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
    log: RecordedLifecycle

    async def stored(self) -> list[Sandbox]:
        """What the store has once all is written."""
        await self.sandboxes.close()
        await self.registry.close()
        return list(await self.store.list_sandboxes(ended_since=0))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """Use cases on a store with one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.teams.add_team(Team(team_id="team", name="team", created_at=0))
    node = Node()
    node.gate.set()
    registry = Registry(store, retention_s=100)
    client = cast("NodeClient", node)
    log = RecordedLifecycle()
    policy = SandboxPolicy(max_per_team=3)
    traffic = TeamTraffics(client, store.teams, policy)
    sandboxes = Sandboxes(OneNode(client), registry, Templates(client, store), Quotas(registry, policy, store.teams), log, traffic)
    yield Plane(node, store, registry, sandboxes, log)
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


async def test_the_log_hears_of_creations_and_kills(plane: Plane) -> None:
    """It is told of a sandbox that runs, and has a last look before the team's kill."""
    row = await plane.sandboxes.create("team", NEW)
    assert (plane.log.created_ids, plane.log.looked_at) == ([row.sandbox_id], [])
    await plane.sandboxes.kill("team", row.sandbox_id)
    assert plane.log.looked_at == [row.sandbox_id]


async def test_the_metadata_choose_the_runtime(plane: Plane) -> None:
    """The node gets the name, and says which one it was. A request that names one takes no sandbox that was made ahead."""
    plain = await plane.sandboxes.create("team", NEW)
    assert (plain.runtime, [plain.sandbox_id]) == ("r", plane.node.reserved)
    named = await plane.sandboxes.create("team", replace(NEW, metadata={RUNTIME_KEY: "gvisor", "other": "1"}))
    assert (named.runtime, named.metadata["other"], len(plane.node.reserved)) == ("gvisor", "1", 1)
    assert Counter(row.runtime for row in plane.sandboxes.all_live()) == {"r": 1, "gvisor": 1}
    assert {row.sandbox_id: row.runtime for row in await plane.stored()} == {plain.sandbox_id: "r", named.sandbox_id: "gvisor"}


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
    assert plane.registry.use_of("team").sandboxes == 1


async def test_creations_at_once_keep_the_limit(plane: Plane) -> None:
    """Of many creations at the same moment no more succeed than the limit allows."""
    done = await asyncio.gather(*(plane.sandboxes.create("team", NEW) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(row, Sandbox) for row in done) == 3


async def test_a_creation_that_cannot_be_stored_leaves_no_sandbox(plane: Plane) -> None:
    """Its client gets an error and no id, so it could not end a sandbox that ran on and took a place of its team."""
    fails = "BEFORE UPDATE ON sandboxes WHEN NEW.state = 'running' BEGIN SELECT RAISE(ABORT, 'no'); END"
    plane.store._connection.execute(f"CREATE TRIGGER fails {fails}")
    with pytest.raises(PermissionDeniedError):
        await plane.sandboxes.create("team", NEW)
    assert [row.state for row in await plane.stored()] == [SandboxState.ENDED]
    assert (plane.node.live, list(plane.sandboxes.all_live())) == ({}, [])


async def test_a_kill_on_a_full_disk_kills(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end cannot be stored, and the sandbox is gone nevertheless: on the node too, where it uses memory."""
    monkeypatch.setattr(registry_module, "_CALMING_S", 0)
    row = await plane.sandboxes.create("team", replace(NEW, metadata={"large": "x" * 3900}))
    plane.store._connection.execute("PRAGMA max_page_count = 1")  # no more than now: SQLite reports a full disk
    await plane.sandboxes.kill("team", row.sandbox_id)
    assert plane.node.live == {}
    plane.store._connection.execute("PRAGMA max_page_count = 1000000")
    assert [stored.state for stored in await plane.stored()] == [SandboxState.RUNNING]


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
    plane.sandboxes.ended(EndedSandbox(sandbox_id=row.sandbox_id, reason=EndReason.CRASHED, message="out of memory", at=7.5))
    plane.sandboxes.ended(EndedSandbox(sandbox_id=row.sandbox_id, reason=EndReason.KILLED, at=9.0))
    assert heard == [row.sandbox_id]
    with pytest.raises(SandboxNotFoundError, match=r"crashed \(out of memory\)"):
        plane.sandboxes.get("team", row.sandbox_id)


async def test_the_same_key_at_once_gives_one_sandbox(plane: Plane) -> None:
    """Creations with the same idempotency key at the same moment give the same sandbox."""
    new = NewSandbox(template="base", timeout_s=100, idempotency_key="k")
    rows = await asyncio.gather(*(plane.sandboxes.create("team", new) for _ in range(5)))
    assert {row.sandbox_id for row in rows} == set(plane.node.live)
    assert len(plane.node.live) == 1
