"""Volumes of which another process may be the maker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.cluster.one import OneNode
from cloister.control.volumes import VolumePolicy, Volumes
from cloister.model.team import Team
from cloister.model.volume import Volume
from cloister.nodewire.requests import VolumeRef
from cloister.store.sqlite import SqliteStore
from cloister.store.volume_tokens import VolumeTokens

_NOW = time.time()
_VOLUMES = [
    Volume(volume_id="old", team_id="t1", name="old", size_mib=64, created_at=_NOW - 9000, is_ready=False),
    Volume(volume_id="new", team_id="t1", name="new", size_mib=64, created_at=_NOW, is_ready=False),
    Volume(volume_id="good", team_id="t1", name="good", size_mib=64, created_at=_NOW - 9000, is_ready=True),
]


class _Node:
    async def delete_volume(self, request: VolumeRef) -> bool:
        return request.volume_id != ""


@pytest.mark.parametrize(("is_shared", "kept"), [(True, {"new", "good"}), (False, {"good"})])
async def test_what_another_process_makes_stays(tmp_path: Path, *, is_shared: bool, kept: set[str]) -> None:
    """A volume that was cut off goes, but for a young one that another process may be making. All go with their team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.teams.add_team(Team(team_id="t1", name="one", created_at=1.0))
    for volume in _VOLUMES:
        await store.volumes.add_volume(volume, most=9)
    policy = VolumePolicy(default_mib=64, max_mib=64, most_per_team=9)
    volumes = Volumes(OneNode(cast("NodeClient", _Node())), store.volumes, VolumeTokens(tmp_path / "key"), policy, is_shared=is_shared)
    await volumes.settle()
    assert {volume.volume_id for volume in await store.volumes.list_volumes()} == kept
    await volumes.delete_of_removed("t1")
    assert not await store.volumes.list_volumes()
    await store.close()
