"""The SQL of :class:`~cloister.store.volumes.VolumeStore`; see there for each method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cloister.model.volume import Volume
from cloister.store.sqlite_templates import Runner

__all__ = ["SqliteVolumes"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(Volume))
_NAMES = ", ".join(_COLUMNS)
_MARKS = ", ".join(f":{name}" for name in _COLUMNS)


class SqliteVolumes:
    """A :class:`~cloister.store.volumes.VolumeStore` on the connection of a :class:`~cloister.store.sqlite.SqliteStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _change(self, sql: str, values: dict[str, Any]) -> int:
        return await self._run(lambda connection: connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Volume]:
        rows = await self._run(lambda connection: connection.execute(sql, values).fetchall())
        return [Volume(**{**dict(row), "is_ready": bool(row["is_ready"])}) for row in rows]

    async def add_volume(self, volume: Volume, *, most: int) -> bool:
        """See :class:`~cloister.store.volumes.VolumeStore`; likewise below."""
        sql = (
            f"INSERT INTO volumes ({_NAMES}) SELECT {_MARKS}"  # noqa: S608 - our own column names, here and below
            " WHERE (SELECT count(*) FROM volumes WHERE team_id = :team_id) < :most"
        )
        return await self._change(sql, {**vars(volume), "most": most}) == 1

    async def find_volume(self, volume_id: str) -> Volume | None:
        """See the protocol."""
        found = await self._fetch(f"SELECT {_NAMES} FROM volumes WHERE volume_id = ?", (volume_id,))  # noqa: S608 - as above
        return found[0] if found else None

    async def list_volumes(self, team_id: str | None = None) -> Sequence[Volume]:
        """See the protocol."""
        sql = f"SELECT {_NAMES} FROM volumes WHERE ?1 IS NULL OR team_id = ?1 ORDER BY created_at, volume_id"  # noqa: S608 - as above
        return await self._fetch(sql, (team_id,))

    async def set_volume_ready(self, volume_id: str, *, is_ready: bool) -> bool:
        """See the protocol."""
        sql = "UPDATE volumes SET is_ready = :is_ready WHERE volume_id = :volume_id"
        return await self._change(sql, {"volume_id": volume_id, "is_ready": is_ready}) == 1

    async def delete_volume(self, volume_id: str) -> bool:
        """See the protocol."""
        return await self._change("DELETE FROM volumes WHERE volume_id = :volume_id", {"volume_id": volume_id}) == 1
