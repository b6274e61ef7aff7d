"""The store on a database that speaks SQL: :class:`~cloister.store.base.Store` but for opening and closing.

All SQL is here, in the modules ``sql_*`` beside it, and in the migrations. :mod:`cloister.store.sqlite` and :mod:`cloister.store.postgres`
own the connections.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from cloister.model.event import LifecycleEvent
from cloister.model.lifecycle import Lifecycle, Pause
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.model.secret import conceal, reveal
from cloister.model.team import TeamUse
from cloister.model.usage import use_of
from cloister.model.volume import VolumeMount
from cloister.store.connection import Connection, Runner
from cloister.store.sharing import Reservation, Sharing
from cloister.store.sql_events import SqlEvents, insert_events
from cloister.store.sql_nodes import SqlNodes
from cloister.store.sql_secrets import SqlSecrets
from cloister.store.sql_teams import SqlTeams
from cloister.store.sql_templates import SqlTemplates
from cloister.store.sql_volumes import SqlVolumes

__all__ = ["SqlStore"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(Sandbox))
_NAMES = ", ".join(_COLUMNS)
_INSERT = f"INSERT INTO sandboxes ({_NAMES}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608 - our own column names, here and below
_UPDATE = (
    f"UPDATE sandboxes SET {', '.join(f'{name} = :{name}' for name in _COLUMNS if name != 'sandbox_id')}"  # noqa: S608 - as above
    " WHERE sandbox_id = :sandbox_id AND version = :expected_version"
)
_RUNS = "state IN ('creating', 'running', 'pausing', 'resuming')"
_USE_NAMES = tuple(field.name for field in dataclasses.fields(TeamUse))
_USE = f"""
    SELECT sum(CASE WHEN {_RUNS} THEN 1 ELSE 0 END) AS sandboxes,
        sum(CASE WHEN state IN ('pausing', 'paused', 'resuming') OR lifecycle LIKE '%"on_timeout": "pause%' THEN 1 ELSE 0 END) AS paused,
        sum(CASE WHEN {_RUNS} THEN cpu_count ELSE 0 END) AS cpu_count, sum(CASE WHEN {_RUNS} THEN mem_mib ELSE 0 END) AS mem_mib,
        sum(disk_mib + CASE WHEN pause LIKE '%"kind": "checkpoint"%' THEN mem_mib ELSE 0 END) AS disk_mib
    FROM sandboxes WHERE team_id = :team_id AND state <> 'ended' AND sandbox_id <> :sandbox_id
"""  # noqa: S608 - our own SQL
"""The sum of :func:`~cloister.model.usage.use_of` of a team's other sandboxes."""


class SqlStore:
    """The statements, each run by ``run`` on a connection."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self.teams = SqlTeams(run)
        self.templates = SqlTemplates(run)
        self.secrets = SqlSecrets(run)
        self.events = SqlEvents(run)
        self.volumes = SqlVolumes(run)
        self.nodes = SqlNodes(run)

    @property
    def sharing(self) -> Sharing | None:
        """See :class:`~cloister.store.base.Store`."""
        return None

    async def close(self) -> None:
        """See the protocol."""
        raise NotImplementedError

    def note_creation(self, connection: Connection, sandbox_id: str) -> None:
        """Note in the transaction of a reserved creation that this process makes the sandbox, where that matters to others."""

    def take_rate(self, connection: Connection, team_id: str, rate: float) -> bool:  # noqa: ARG002 - for the databases that share
        """Take a place in the team's creations of this second; False: there is none. Always true where one process knows all of them."""
        return True

    async def add_sandbox(self, sandbox: Sandbox, *, within: Reservation | None = None) -> None:
        """See :class:`~cloister.store.base.Store`; likewise below."""
        row = _to_row(sandbox)

        def add(connection: Connection) -> None:
            if within is not None:
                self._reserve(connection, sandbox, within)
            connection.execute(_INSERT, row)
            if within is not None:
                self.note_creation(connection, sandbox.sandbox_id)

        await self._run(add if within is None else lambda connection: connection.whole(add))

    async def change_sandbox(
        self, sandbox: Sandbox, *, expected_version: int, events: Sequence[LifecycleEvent] = (), within: Reservation | None = None
    ) -> bool:
        """See the protocol."""
        values = {**_to_row(sandbox), "expected_version": expected_version}

        def change(connection: Connection) -> bool:
            if within is not None:
                self._reserve(connection, sandbox, within)
            is_changed = connection.execute(_UPDATE, values).rowcount == 1
            if is_changed:
                insert_events(connection, events)
            return is_changed

        if not events and within is None:
            return await self._run(change)
        return await self._run(lambda connection: connection.whole(change))

    def _reserve(self, connection: Connection, sandbox: Sandbox, within: Reservation) -> None:
        connection.lock(f"use of {sandbox.team_id}")
        row = connection.execute(_USE, {"team_id": sandbox.team_id, "sandbox_id": sandbox.sandbox_id}).fetchone()
        others = TeamUse(**{name: row[name] or 0 for name in _USE_NAMES})
        within.check(others.plus(use_of(sandbox)))
        if within.rate is not None and not self.take_rate(connection, sandbox.team_id, within.rate):
            within.refuse()

    async def list_sandboxes(self, *, ended_since: float) -> Sequence[Sandbox]:
        """See the protocol."""
        sql = f"SELECT {_NAMES} FROM sandboxes WHERE state <> 'ended' OR ended_at >= ? ORDER BY started_at"  # noqa: S608 - as above
        rows = await self._run(lambda connection: connection.execute(sql, (ended_since,)).fetchall())
        return [_from_row(row) for row in rows]

    async def find_sandboxes(self, sandbox_ids: Collection[str]) -> Sequence[Sandbox]:
        """See the protocol."""
        sql = f"SELECT {_NAMES} FROM sandboxes WHERE sandbox_id IN ({', '.join('?' for _ in sandbox_ids)})"  # noqa: S608 - as above
        wanted = tuple(sandbox_ids)
        rows = await self._run(lambda connection: connection.execute(sql, wanted).fetchall()) if wanted else []
        return [_from_row(row) for row in rows]

    async def prune_sandboxes(self, *, ended_before: float) -> int:
        """See the protocol."""
        sql = "DELETE FROM sandboxes WHERE state = 'ended' AND ended_at < ?"
        return await self._run(lambda connection: connection.execute(sql, (ended_before,)).rowcount)


def _to_row(sandbox: Sandbox) -> dict[str, Any]:
    row = {name: getattr(sandbox, name) for name in _COLUMNS}
    row["metadata"] = json.dumps(sandbox.metadata)
    row["access_token"], row["traffic_token"] = reveal(sandbox.access_token), reveal(sandbox.traffic_token)
    row["egress"] = None if sandbox.egress is None else json.dumps(sandbox.egress.to_json())
    row["network"] = json.dumps(sandbox.network.to_json())
    row["lifecycle"] = json.dumps(sandbox.lifecycle.to_json())
    row["pause"] = None if sandbox.pause is None else json.dumps(sandbox.pause.to_json())
    row["volumes"] = json.dumps([one.to_json() for one in sandbox.volumes])
    return row


def _from_row(row: Any) -> Sandbox:
    fields = dict(row)
    fields["metadata"] = json.loads(fields["metadata"])
    fields["network"] = NetworkOptions.from_json(json.loads(fields["network"]))
    fields["volumes"] = tuple(map(VolumeMount.from_json, json.loads(fields["volumes"])))
    fields["lifecycle"] = Lifecycle.from_json(json.loads(fields["lifecycle"]))
    if fields["pause"] is not None:
        fields["pause"] = Pause.from_json(json.loads(fields["pause"]))
    fields["state"] = SandboxState(fields["state"])
    if fields["egress"] is not None:
        fields["egress"] = EgressPolicy.from_json(json.loads(fields["egress"]))
    for name in ("access_token", "traffic_token"):
        fields[name] = conceal(fields[name])
    if fields["end_reason"] is not None:
        fields["end_reason"] = EndReason(fields["end_reason"])
    return Sandbox(**fields)
