"""The nodes of a cluster as one client: places, refusals, and nodes that are silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.cluster import members
from cloister.cluster.base import Need
from cloister.cluster.fleet import ClusterFleet
from cloister.errors import NoCapacityError, NodeUnreachableError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import EndReason, SandboxRequest
from cloister.model.team_traffic import TeamTraffic
from cloister.nodewire.requests import Kill, SandboxRef, SetTeamTraffic, TemplateRef
from framework.fake_cluster import FakeCluster, fake_cluster
from framework.waiting import eventually_async

pytestmark = pytest.mark.root


async def _create(cluster: FakeCluster, need: Need) -> str:
    """Create as the use case does; the sandbox's id."""
    sandbox_id = await cluster.fleet.reserve(need, "team")
    cluster.homes[sandbox_id] = cluster.fleet.place(sandbox_id, need) or ""
    await cluster.fleet.calls.create(SandboxRequest(sandbox_id=sandbox_id, template="base", end_at=2e9, team_id="team"))
    return sandbox_id


async def test_a_refused_creation_goes_to_the_next_node_once(tmp_path: Path) -> None:
    """The node that refused forgets the id; with no other node, the client gets the refusal."""
    async with fake_cluster(tmp_path, 2) as cluster:
        full, free = cluster.nodes.values()
        full.node.create_fault = NoCapacityError("full")
        for _ in range(4):
            sandbox_id = await _create(cluster, Need(template="base"))
            assert cluster.homes[sandbox_id] == free.node.node_id
            assert sandbox_id in free.node.sandboxes
            assert sandbox_id not in full.node.sandboxes
        free.node.create_fault = NoCapacityError("full too")
        with pytest.raises(NoCapacityError):
            await _create(cluster, Need(template="base"))
        with pytest.raises(NoCapacityError, match="full"):
            await _create(cluster, Need(template="base", node_id=full.node.node_id))


async def test_a_call_goes_to_the_node_of_its_sandbox(tmp_path: Path) -> None:
    """Reports are sums, and an unknown sandbox is on no node."""
    async with fake_cluster(tmp_path, 3) as cluster:
        made = [await _create(cluster, Need(template="base", node_id=node_id)) for node_id in cluster.nodes]
        for sandbox_id in made:
            assert (await cluster.fleet.calls.get(SandboxRef(sandbox_id))).sandbox_id == sandbox_id
        await cluster.fleet.calls.kill(Kill(made[0]))
        assert [len(one.node.sandboxes) for one in cluster.nodes.values()] == [0, 1, 1]
        assert not await cluster.fleet.calls.kill(Kill(new_sandbox_id()))
        with pytest.raises(SandboxNotFoundError):
            await cluster.fleet.calls.get(SandboxRef(new_sandbox_id()))
        assert {template.name for template in await cluster.fleet.calls.templates()} >= {"base"}


async def test_a_template_that_some_node_builds(tmp_path: Path) -> None:
    """A client learns of the build wherever it is; a name that no node knows is no error."""
    async with fake_cluster(tmp_path, 2) as cluster:
        ask = TemplateRef("desktop")
        assert not (await cluster.fleet.calls.absent_template(ask)).note
        last = list(cluster.nodes.values())[-1]
        last.node.absent = {"desktop": "being built"}
        assert (await cluster.fleet.calls.absent_template(ask)).note == "being built"


async def test_every_node_has_the_bounds_of_teams(tmp_path: Path) -> None:
    """A node that comes back is told them before it counts as connected."""
    async with fake_cluster(tmp_path, 2) as cluster:
        bound = TeamTraffic(team_id="team", mbit_per_s=5)
        await cluster.fleet.calls.set_team_traffic(SetTeamTraffic((bound,)))
        one, other = cluster.nodes.values()
        assert one.node.team_traffic == other.node.team_traffic == (bound,)
        one.node.team_traffic = ()
        await one.node.die()
        await one.node.start()
        await eventually_async(lambda: one.node.team_traffic == (bound,))


async def test_a_node_cannot_end_the_sandbox_of_another_node(tmp_path: Path) -> None:
    """Its events count for its own sandboxes alone."""
    async with fake_cluster(tmp_path, 2) as cluster:
        one, other = cluster.nodes
        mine = await _create(cluster, Need(template="base", node_id=one))
        for sandbox_id in (mine, await _create(cluster, Need(template="base", node_id=other))):
            cluster.fleet._hear(one, EndedSandbox(sandbox_id=sandbox_id, reason=EndReason.CRASHED, at=1.0))
        assert [event.sandbox_id for event in cluster.heard if isinstance(event, EndedSandbox)] == [mine]


async def test_a_silent_node_is_lost_and_one_that_says_why_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls fail at once, nothing is placed there, and it is greeted when it is back."""
    monkeypatch.setattr(members, "LOST_S", 1.5)
    async with fake_cluster(tmp_path, 2) as cluster:
        silent, leaving = cluster.nodes.values()
        sandbox_id = await _create(cluster, Need(template="base", node_id=silent.node.node_id))
        await leaving.agent.close()
        silent.agent._gate, gate = None, silent.agent._gate  # it says no word
        assert gate is not None
        await gate.close()
        await silent.agent.close()
        await eventually_async(lambda: cluster.lost == {silent.node.node_id})
        with pytest.raises(NodeUnreachableError, match="is lost"):
            await cluster.fleet.calls.get(SandboxRef(sandbox_id))
        with pytest.raises(NoCapacityError):
            cluster.fleet.place(new_sandbox_id(), Need(template="base"))
        greeted = len(cluster.greeted)
        await silent.restart_agent()
        await eventually_async(lambda: len(cluster.greeted) > greeted)
        await eventually_async(lambda: not cluster.fleet.members[silent.node.node_id].is_lost)
        assert (await cluster.fleet.calls.get(SandboxRef(sandbox_id))).sandbox_id == sandbox_id
        await leaving.restart_agent()


async def test_a_stopped_process_loses_no_node(tmp_path: Path) -> None:
    """A look counts for a second at most: an api process that was stopped itself has heard nothing meanwhile."""
    async with fake_cluster(tmp_path, 1) as cluster:
        (member,) = cluster.fleet.members.values()
        member._looked_at -= 3600
        member.link.heard_at -= 7200
        member.look()
        assert member.silence_s == 1.0
        assert isinstance(cluster.fleet, ClusterFleet)
