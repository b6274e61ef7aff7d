"""The SQL of :class:`~cloister.store.nodes.NodeStore`; see there for each method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cloister.model.cluster import ClusterNode
from cloister.store.connection import Connection, Runner

__all__ = ["SqlNodes"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(ClusterNode))
_NAMES = ", ".join(_COLUMNS)
_ADD = (
    f"INSERT INTO nodes ({_NAMES}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608 - our own column names
    " ON CONFLICT (node_id) DO UPDATE SET address = excluded.address, joined_at = excluded.joined_at, token_id = excluded.token_id"
)


class SqlNodes:
    """A :class:`~cloister.store.nodes.NodeStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def add_node(self, node: ClusterNode) -> None:
        """See :class:`~cloister.store.nodes.NodeStore`; likewise below."""
        values = {**vars(node), "is_draining": int(node.is_draining)}
        used = "INSERT INTO used_join_tokens (token_id, node_id) VALUES (:token_id, :node_id) ON CONFLICT (token_id, node_id) DO NOTHING"

        def add(connection: Connection) -> None:
            connection.execute(used, {"token_id": node.token_id, "node_id": node.node_id})
            connection.execute(_ADD, values)

        await self._run(lambda connection: connection.whole(add))

    async def list_nodes(self) -> Sequence[ClusterNode]:
        """See the protocol."""
        sql = f"SELECT {_NAMES} FROM nodes ORDER BY node_id"  # noqa: S608 - our own column names
        rows = await self._run(lambda connection: connection.execute(sql).fetchall())
        return [ClusterNode(**{**dict(row), "is_draining": bool(row["is_draining"])}) for row in rows]

    async def set_draining(self, node_id: str, *, is_draining: bool) -> bool:
        """See the protocol."""
        sql = "UPDATE nodes SET is_draining = :is_draining WHERE node_id = :node_id"
        values = {"node_id": node_id, "is_draining": int(is_draining)}
        return await self._run(lambda connection: connection.execute(sql, values).rowcount) == 1

    async def remove_node(self, node_id: str) -> bool:
        """See the protocol."""
        values = {"node_id": node_id}

        def remove(connection: Connection) -> int:
            connection.execute("UPDATE used_join_tokens SET node_id = '' WHERE node_id = :node_id", values)
            return connection.execute("DELETE FROM nodes WHERE node_id = :node_id", values).rowcount

        return await self._run(lambda connection: connection.whole(remove)) == 1
