"""The store's interface for secrets of teams, the same for every database.

Invariant: a secret changes only by compare-and-set on its ``version``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cloister.model.stored_secret import StoredSecret

__all__ = ["SecretStore"]


class SecretStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full."""

    async def add_secret(self, secret: StoredSecret, *, most: int) -> bool:
        """Add a secret; False if the team has ``most`` or more. AlreadyExistsError if the team has one of the name."""

    async def find_secret(self, team_id: str, *, secret_id: str | None = None, name: str | None = None) -> StoredSecret | None:
        """The team's secret of that id or name."""

    async def list_secrets(self, team_id: str) -> Sequence[StoredSecret]:
        """The team's secrets."""

    async def change_secret(self, secret: StoredSecret, *, expected_version: int) -> bool:
        """Replace the secret if it has ``expected_version``; False: it has another version, or is gone."""

    async def delete_secret(self, team_id: str, secret_id: str) -> bool:
        """Delete a secret of the team; False if it has none of that id."""

    async def list_sealed_otherwise(self, key_id: str) -> Sequence[StoredSecret]:
        """Secrets of all teams that are encrypted with another key."""

    async def reseal_secret(self, secret: StoredSecret, *, former_key_id: str) -> bool:
        """Replace the encrypted value of the same version; False: it is of another version or key now, or gone."""
