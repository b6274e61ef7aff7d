"""The node is told of the teams' network limits before a sandbox starts, and only when they change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.control.quotas import SandboxPolicy
from cloister.control.team_traffic import TeamTraffics
from cloister.errors import UnavailableError
from cloister.model.team import TeamLimits
from cloister.model.team_traffic import TeamTraffic
from cloister.nodewire.requests import SetTeamTraffic
from framework.pausing_lab import NEW, open_plane
from framework.waiting import eventually_async

_RED = TeamTraffic(team_id="team", mbit_per_s=5)


async def test_a_limit_is_told_before_a_creation_and_a_resume_once(tmp_path: Path) -> None:
    """The first creation tells that no team is bounded, as an earlier process may have bounded some. Later only changes are told."""
    async with open_plane(tmp_path) as plane:
        await plane.sandboxes.create("team", NEW)
        await plane.sandboxes.create("team", NEW)
        assert plane.node.team_traffic == [SetTeamTraffic(())]
        await plane.store.teams.change_limits("team", {"network_mbit_per_s": 5})
        await plane.sandboxes.create("team", NEW)
        assert plane.node.team_traffic[1:] == [SetTeamTraffic((_RED,))]


async def test_defaults_hold_for_teams_without_limits_of_their_own(tmp_path: Path) -> None:
    """A default is told for each team; a team's own limit replaces it."""
    async with open_plane(tmp_path) as plane:
        policy = replace(SandboxPolicy(), defaults=TeamLimits(network_packets_per_s=1000, network_mbit_per_s=1))
        traffic = TeamTraffics(plane.sandboxes._node, plane.store.teams, policy)
        await plane.store.teams.change_limits("team", {"network_mbit_per_s": 5})
        await traffic.tell()
        assert plane.node.team_traffic == [SetTeamTraffic((replace(_RED, packets_per_s=1000),))]


async def test_no_sandbox_starts_while_the_node_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The creation fails, and the next one tells the node again."""

    async def refuse(_request: SetTeamTraffic) -> None:
        raise UnavailableError("the node is away")

    async with open_plane(tmp_path) as plane:
        with monkeypatch.context() as away:
            away.setattr(plane.node, "set_team_traffic", refuse)
            with pytest.raises(UnavailableError, match="away"):
                await plane.sandboxes.create("team", NEW)
        assert not plane.node.live
        await plane.sandboxes.create("team", NEW)
        assert plane.node.team_traffic == [SetTeamTraffic(())]


async def test_a_change_by_another_process_reaches_live_sandboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is read again from time to time."""
    monkeypatch.setattr("cloister.control.team_traffic._LOOK_S", 0.01)
    async with open_plane(tmp_path) as plane:
        running = asyncio.create_task(plane.sandboxes.traffic.run())
        await plane.store.teams.change_limits("team", {"network_mbit_per_s": 5})
        await eventually_async(lambda: SetTeamTraffic((_RED,)) in plane.node.team_traffic)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
