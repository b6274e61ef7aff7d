"""The removal of a team is carried through, and two changes of its limits at the same time both hold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.control.team_admin import TeamAdmin
from cloister.control.teams import Teams
from cloister.errors import IsolationError
from cloister.model.team import TeamLimits
from cloister.nodewire.requests import Kill
from framework.pausing_lab import NEW, open_plane
from framework.waiting import eventually_async


class Deletion:
    """Notes the teams whose templates are deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def delete_of_removed(self, team_id: str) -> None:
        """Note it."""
        self.deleted.append(team_id)


async def test_a_removal_that_is_cut_off_ends_the_sandboxes(tmp_path: Path) -> None:
    """Its client goes away while the node kills; the sandboxes and templates of the team end all the same."""
    async with open_plane(tmp_path) as plane:
        deletion = Deletion()
        admin = TeamAdmin(Teams(plane.store), plane.sandboxes, cast("Any", deletion), cast("Any", Deletion()))
        for _ in range(3):
            await plane.sandboxes.create("team", NEW)
        plane.node.gate.clear()
        (team,) = await admin.teams.list()
        removal = asyncio.create_task(admin.remove(team, kill=True))
        await eventually_async(lambda: not list(plane.registry.all_live()))
        removal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removal
        plane.node.gate.set()
        await admin.close()
        assert not plane.node.live
        assert deletion.deleted == ["team"]


async def test_a_sandbox_that_cannot_be_ended_keeps_no_other_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are tried, and then the error is raised."""
    async with open_plane(tmp_path) as plane:
        first = (await plane.sandboxes.create("team", NEW)).sandbox_id
        for _ in range(2):
            await plane.sandboxes.create("team", NEW)
        kill = plane.node.kill

        async def fail_once(request: Kill) -> bool:
            if request.sandbox_id == first:
                raise IsolationError("it does not end", step="kill")
            await asyncio.sleep(0)
            return await kill(request)

        monkeypatch.setattr(plane.node, "kill", fail_once)
        with pytest.raises(IsolationError):
            await plane.sandboxes.kill_team("team")
        assert list(plane.node.live) == [first]


async def test_two_changes_of_limits_both_hold(tmp_path: Path) -> None:
    """Both read the team before either writes."""
    async with open_plane(tmp_path) as plane:
        teams = Teams(plane.store)
        (team,) = await teams.list()
        await teams.limit(team, {"sandboxes": 5, "paused": 4}, TeamLimits())
        (stale,) = await teams.list()
        await teams.limit(stale, {"sandboxes": 7}, TeamLimits())
        changed = await teams.limit(stale, {"cpu_count": 2.5, "paused": None}, TeamLimits())
        assert changed.limits == TeamLimits(sandboxes=7, cpu_count=2.5)
