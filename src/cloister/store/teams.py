"""The store's interface for teams, their keys and their metrics. Its rows are entities of ``model/``.

Invariant: a removed team has no key, no secret and no template that a client can reach, and gets no new sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cloister.model.team import ApiKey, Team
from cloister.model.team_metrics import TeamSample

__all__ = ["TeamStore"]


class TeamStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full.

    Teams that were removed are none, but for the ids.
    """

    async def add_team(self, team: Team) -> None:
        """Add a team; AlreadyExistsError when the name is taken."""

    async def list_teams(self) -> Sequence[Team]:
        """All teams, oldest first."""

    async def find_team(self, team_id: str) -> Team | None:
        """The team of that id."""

    async def change_limits(self, team_id: str, changes: Mapping[str, float | None]) -> bool:
        """Change limits of the team's own, by name; None takes one away. Others stay. False if there is no such team."""

    async def remove_team(self, team_id: str, at: float, *, even_with_sandboxes: bool, ends_sandboxes: bool) -> bool:
        """Remove a team with its keys, secrets and templates, all or nothing.

        False: it has sandboxes that have not ended, unless ``even_with_sandboxes``. With ``ends_sandboxes`` their rows end too, as killed;
        only while no server runs, because a running one has them in memory.
        """

    async def count_goods(self, team_id: str) -> Mapping[str, int]:
        """The numbers of the team's ``keys`` (valid ones), ``templates``, ``snapshots``, ``secrets`` and ``sandboxes`` (live ones)."""

    async def add_key(self, key: ApiKey, *, most: int | None = None) -> bool:
        """Add a key; False if its team has ``most`` valid keys, or was removed, or if its maker was revoked."""

    async def list_keys(self, team_id: str | None = None) -> Sequence[ApiKey]:
        """All keys, or the team's, oldest first, revoked ones too."""

    async def find_key(self, key_hash: str) -> tuple[ApiKey, Team | None] | None:
        """The key with this hash, and its team. A revoked key is not found, an expired one is."""

    async def rename_key(self, team_id: str, key_id: str, name: str) -> bool:
        """Rename a key of the team; False if it has none of that id, or it was revoked."""

    async def revoke_key(self, key_id: str, at: float, *, team_id: str | None = None, spared: str | None = None) -> bool:
        """Revoke a key for good, with those that it made, and in turn with those; but for the key ``spared``, if it made that, and its own.

        False if there is none, or none of the team, or it was revoked before.
        """

    async def forget_key(self, key_id: str) -> None:
        """Delete a key's row."""

    async def note_use(self, key_id: str, at: float) -> None:
        """Note that a key was used."""

    async def add_samples(self, samples: Sequence[TeamSample]) -> None:
        """Add samples of teams' use."""

    async def list_samples(self, team_id: str, start: float, end: float) -> Sequence[TeamSample]:
        """The team's samples from ``start`` to ``end``, oldest first."""

    async def prune_samples(self, before: float) -> None:
        """Delete older samples."""
