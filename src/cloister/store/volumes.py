"""The store's interface for volumes of teams, the same for every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cloister.model.volume import Volume

__all__ = ["VolumeStore"]


class VolumeStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full."""

    async def add_volume(self, volume: Volume, *, most: int) -> bool:
        """Add a volume; False if the team has ``most`` or more. AlreadyExistsError if the team has one of the name."""

    async def find_volume(self, volume_id: str) -> Volume | None:
        """The volume of that id, of any team."""

    async def list_volumes(self, team_id: str | None = None) -> Sequence[Volume]:
        """The team's volumes, or those of all teams, oldest first."""

    async def set_volume_ready(self, volume_id: str, *, is_ready: bool) -> bool:
        """Say whether a volume can be used; False: it is gone."""

    async def delete_volume(self, volume_id: str) -> bool:
        """Delete a volume's row; False if there is none."""
