"""Volumes while other requests run: the removal of their team, and copies of one team beside those of another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.cluster.one import OneNode
from cloister.control.volumes import VolumePolicy, Volumes
from cloister.errors import NotFoundError
from cloister.nodewire.requests import CopyVolume, MakeVolume, VolumeRef
from framework.pausing_lab import Plane, open_plane
from framework.waiting import eventually_async


class VolumeNode:
    """A node whose work waits behind a gate, once it is shut."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.there: set[str] = set()

    async def _make(self, volume_id: str) -> None:
        self.begun.append(volume_id)
        await self.gate.wait()
        self.there.add(volume_id)

    async def make_volume(self, request: MakeVolume) -> None:
        """See VolumeMethods."""
        await self._make(request.volume_id)

    async def copy_volume(self, request: CopyVolume) -> None:
        """See VolumeMethods."""
        await self._make(request.target_id)

    async def delete_volume(self, request: VolumeRef) -> bool:
        """See VolumeMethods."""
        self.there.discard(request.volume_id)
        return True


def volumes_of(plane: Plane, node: VolumeNode) -> Volumes:
    """The use cases, on the plane's store."""
    policy = VolumePolicy(default_mib=64, max_mib=64, most_per_team=10)
    return Volumes(OneNode(cast("Any", node)), plane.store.volumes, cast("Any", None), policy)


async def test_a_volume_that_is_made_while_its_team_is_removed_does_not_stay(tmp_path: Path) -> None:
    """No client could delete it: the removal of the team has passed it by, and its maker gets an error."""
    async with open_plane(tmp_path) as plane:
        node = VolumeNode()
        volumes = volumes_of(plane, node)
        node.gate.clear()
        making = asyncio.create_task(volumes.create("team", "late"))
        await eventually_async(lambda: bool(node.begun))
        await plane.store.teams.remove_team("team", 1.0, even_with_sandboxes=True, ends_sandboxes=True)
        await volumes.delete_of_removed("team")
        node.gate.set()
        with pytest.raises(NotFoundError):
            await making
        assert not node.there
        assert not await plane.store.volumes.list_volumes()


async def test_a_team_makes_one_copy_at_a_time(tmp_path: Path) -> None:
    """Copies take long. Those of one team wait for each other, so that the node has time for those of another."""
    async with open_plane(tmp_path) as plane:
        node = VolumeNode()
        volumes = volumes_of(plane, node)
        original = await volumes.create("team", "original")
        node.gate.clear()
        copies = [asyncio.create_task(volumes.copy("team", original.volume_id, f"copy{number}")) for number in range(3)]
        await eventually_async(lambda: len(node.begun) == 2)
        while len(await plane.store.volumes.list_volumes("team")) < 4:  # each asks the node right after its row is there
            assert len(node.begun) == 2
        await plane.store.volumes.list_volumes("team")
        assert len(node.begun) == 2
        node.gate.set()
        assert len({copy.volume_id for copy in await asyncio.gather(*copies)} & node.there) == 3
