"""The SQL of :class:`~cloister.store.volumes.VolumeStore`; see there for each method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cloister.model.volume import Volume
from cloister.store.connection import Connection, Runner

__all__ = ["SqlVolumes"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(Volume))
_NAMES = ", ".join(_COLUMNS)
_MARKS = ", ".join(f":{name}" for name in _COLUMNS)


class SqlVolumes:
    """A :class:`~cloister.store.volumes.VolumeStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

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
        values = {**vars(volume), "is_ready": int(volume.is_ready), "most": most}

        def add(connection: Connection) -> bool:
            connection.lock(f"volumes of {volume.team_id}")
            return connection.execute(sql, values).rowcount == 1

        return await self._run(lambda connection: connection.whole(add))

    async def find_volume(self, volume_id: str) -> Volume | None:
        """See the protocol."""
        found = await self._fetch(f"SELECT {_NAMES} FROM volumes WHERE volume_id = ?", (volume_id,))  # noqa: S608 - as above
        return found[0] if found else None

    async def list_volumes(self, team_id: str | None = None) -> Sequence[Volume]:
        """See the protocol."""
        every = f"SELECT {_NAMES} FROM volumes"  # noqa: S608 - as above
        order = "ORDER BY created_at, volume_id"
        if team_id is None:
            return await self._fetch(f"{every} {order}")
        return await self._fetch(f"{every} WHERE team_id = ? {order}", (team_id,))

    async def set_volume_ready(self, volume_id: str, *, is_ready: bool) -> bool:
        """See the protocol."""
        sql = (
            "UPDATE volumes SET is_ready = :is_ready WHERE volume_id = :volume_id AND (:is_ready = 0"
            " OR (SELECT removed_at FROM teams WHERE teams.team_id = volumes.team_id) IS NULL)"
        )
        return await self._change(sql, {"volume_id": volume_id, "is_ready": int(is_ready)}) == 1

    async def delete_volume(self, volume_id: str) -> bool:
        """See the protocol."""
        return await self._change("DELETE FROM volumes WHERE volume_id = :volume_id", {"volume_id": volume_id}) == 1
