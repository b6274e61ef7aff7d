"""The SQL of :class:`~cloister.store.templates.TemplateStore`; see there for each method."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from cloister.model.build import Build, BuildStatus
from cloister.model.template import OwnedTemplate, TagAssignment, TaggedBuild, TemplateKind
from cloister.model.upload import Upload
from cloister.store.connection import Connection, Runner

__all__ = ["SqlTemplates"]

_T = TypeVar("_T")
_TEMPLATE = ", ".join(f"templates.{field.name}" for field in dataclasses.fields(OwnedTemplate))
_BUILD_COLUMNS = tuple(field.name for field in dataclasses.fields(Build))
_BUILD = ", ".join(f"builds.{name}" for name in _BUILD_COLUMNS)
_ASSIGNMENT = (
    "tag_assignments.number, tag_assignments.assignment_id, tag_assignments.tag, tag_assignments.assigned_at, tag_assignments.build_id,"
    " builds.created_at AS build_created_at, builds.finished_at AS build_finished_at"
)
_CURRENT = (
    "SELECT max(tag_assignments.number) FROM tag_assignments JOIN builds USING (build_id)"
    " WHERE builds.status = 'ready' GROUP BY tag_assignments.template_id, tag_assignments.tag"
)
"""Numbers of the assignments that decide the tags' present builds."""
_LATEST_SNAPSHOTS = (
    "SELECT max(tag_assignments.number) FROM tag_assignments JOIN builds USING (build_id)"  # noqa: S608 - our own SQL
    " JOIN templates ON templates.template_id = tag_assignments.template_id"
    " WHERE templates.team_id = ? AND templates.deleted_at IS NULL AND builds.sandbox_id IS NOT NULL"
    " AND (? IS NULL OR builds.sandbox_id = ?) AND (? IS NULL OR tag_assignments.tag = ?)"
    f" AND tag_assignments.number IN ({_CURRENT}) GROUP BY tag_assignments.template_id"
)
"""Numbers of the latest assignments of each template to snapshots of a team, perhaps of one sandbox and of one tag."""
_UNWANTED = (
    "SELECT builds.* FROM builds JOIN templates USING (template_id)"  # noqa: S608 - our own SQL
    " WHERE NOT EXISTS (SELECT 1 FROM builds AS others WHERE others.parent = builds.build_id AND others.status IN ('waiting', 'building'))"
    " AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE sandboxes.build_id = builds.build_id AND sandboxes.state <> 'ended')"
    " AND (templates.deleted_at IS NOT NULL OR (builds.status IN ('ready', 'error') AND builds.finished_at < ? AND NOT EXISTS"
    " (SELECT 1 FROM tag_assignments WHERE tag_assignments.build_id = builds.build_id AND builds.status = 'ready'"
    f" AND tag_assignments.number IN ({_CURRENT}))))"
)


class SqlTemplates:
    """A :class:`~cloister.store.templates.TemplateStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _change(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> int:
        return await self._run(lambda connection: connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._run(lambda connection: connection.execute(sql, values).fetchall())]

    # ---- templates ----

    async def add_template(self, template: OwnedTemplate) -> None:
        """See :class:`~cloister.store.templates.TemplateStore`; likewise below."""
        columns = dataclasses.asdict(template)
        await self._change(_insert("templates", columns), columns)

    async def find_template(self, template_id: str) -> OwnedTemplate | None:
        """See the protocol."""
        rows = await self._fetch(f"SELECT {_TEMPLATE} FROM templates WHERE template_id = ? AND deleted_at IS NULL", (template_id,))  # noqa: S608 - our own names, here and below
        return _template(rows[0]) if rows else None

    async def find_named_template(self, team_id: str, name: str) -> OwnedTemplate | None:
        """See the protocol."""
        sql = f"SELECT {_TEMPLATE} FROM templates WHERE team_id = ? AND name = ? AND deleted_at IS NULL"  # noqa: S608 - column names are constants
        rows = await self._fetch(sql, (team_id, name))
        return _template(rows[0]) if rows else None

    async def list_templates(self, team_id: str) -> Sequence[OwnedTemplate]:
        """See the protocol."""
        sql = (
            f"SELECT {_TEMPLATE} FROM templates WHERE team_id = ? AND deleted_at IS NULL AND kind = 'template'"  # noqa: S608 - column names are constants
            " ORDER BY created_at DESC, template_id"
        )
        return [_template(row) for row in await self._fetch(sql, (team_id,))]

    async def change_template(self, template_id: str, *, public: bool, at: float) -> None:
        """See the protocol."""
        await self._change("UPDATE templates SET public = ?, updated_at = ? WHERE template_id = ?", (public, at, template_id))

    async def note_spawn(self, template_id: str, at: float) -> None:
        """See the protocol."""
        sql = "UPDATE templates SET spawn_count = spawn_count + 1, last_spawned_at = ? WHERE template_id = ?"
        await self._change(sql, (at, template_id))

    async def delete_template(self, template_id: str, at: float) -> bool:
        """See the protocol."""
        sql = "UPDATE templates SET deleted_at = ?, updated_at = ? WHERE template_id = ? AND deleted_at IS NULL"
        return await self._change(sql, (at, at, template_id)) == 1

    async def has_sandboxes(self, template: OwnedTemplate) -> bool:
        """See the protocol."""
        sql = "SELECT 1 FROM sandboxes WHERE team_id = ? AND template_id = ? AND state <> 'ended' LIMIT 1"
        return bool(await self._fetch(sql, (template.team_id, template.template_id)))

    async def count_templates(self, team_id: str) -> int:
        """See the protocol."""
        rows = await self._fetch("SELECT count(*) AS number FROM templates WHERE team_id = ? AND deleted_at IS NULL", (team_id,))
        return int(rows[0]["number"])

    async def forget_deleted_templates(self) -> None:
        """See the protocol."""
        sql = (
            "DELETE FROM templates WHERE deleted_at IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM builds WHERE builds.template_id = templates.template_id)"
        )
        await self._change(sql, ())

    # ---- builds ----

    async def add_build(self, build: Build, tags: Sequence[str], at: float) -> None:
        """See the protocol."""

        def add(connection: Connection) -> None:
            connection.execute(_insert("builds", _BUILD_COLUMNS), _build_row(build))
            _assign(connection, build.template_id, build.build_id, tags, at)
            connection.execute("UPDATE templates SET updated_at = ? WHERE template_id = ?", (at, build.template_id))

        await self._run(_whole(add))

    async def add_capture(self, build: Build, team_id: str, at: float) -> None:
        """See the protocol."""
        template = OwnedTemplate(
            template_id=build.template_id, team_id=team_id, name=None, kind=TemplateKind.SNAPSHOT, created_at=at, updated_at=at
        )
        columns = {**dataclasses.asdict(template), "deleted_at": at}

        def add(connection: Connection) -> None:
            connection.execute(_insert("templates", columns), columns)
            connection.execute(_insert("builds", _BUILD_COLUMNS), _build_row(build))

        await self._run(_whole(add))

    async def find_build(self, build_id: str) -> Build | None:
        """See the protocol."""
        rows = await self._fetch("SELECT * FROM builds WHERE build_id = ?", (build_id,))
        return _build(rows[0]) if rows else None

    async def change_build(self, build: Build, *, expected_version: int) -> bool:
        """See the protocol."""
        assignments = ", ".join(f"{name} = :{name}" for name in _BUILD_COLUMNS if name != "build_id")
        sql = f"UPDATE builds SET {assignments} WHERE build_id = :build_id AND version = :expected_version"  # noqa: S608 - column names are constants
        return await self._change(sql, {**_build_row(build), "expected_version": expected_version}) == 1

    async def list_builds(self, template_id: str) -> Sequence[Build]:
        """See the protocol."""
        rows = await self._fetch("SELECT * FROM builds WHERE template_id = ? ORDER BY created_at DESC, build_id", (template_id,))
        return [_build(row) for row in rows]

    async def list_unfinished_builds(self, team_id: str | None = None) -> Sequence[Build]:
        """See the protocol."""
        sql = (
            "SELECT builds.* FROM builds JOIN templates USING (template_id) WHERE builds.status IN ('waiting', 'building')"
            " AND (? IS NULL OR templates.team_id = ?) ORDER BY builds.created_at"
        )
        return [_build(row) for row in await self._fetch(sql, (team_id, team_id))]

    async def list_unwanted_builds(self, ended_before: float) -> Sequence[Build]:
        """See the protocol."""
        return [_build(row) for row in await self._fetch(_UNWANTED, (ended_before,))]

    async def forget_build(self, build_id: str) -> None:
        """See the protocol."""
        await self._change("DELETE FROM builds WHERE build_id = ?", (build_id,))

    # ---- tags ----

    async def list_build_tags(self, build_id: str) -> Sequence[str]:
        """See the protocol."""
        rows = await self._fetch("SELECT DISTINCT tag FROM tag_assignments WHERE build_id = ? ORDER BY tag", (build_id,))
        return [row["tag"] for row in rows]

    async def assign_tags(self, template_id: str, build_id: str, tags: Sequence[str], at: float) -> None:
        """See the protocol."""
        await self._run(_whole(lambda connection: _assign(connection, template_id, build_id, tags, at)))

    async def remove_tags(self, template_id: str, tags: Sequence[str]) -> int:
        """See the protocol."""
        sql = "DELETE FROM tag_assignments WHERE template_id = ? AND tag = ?"

        def remove(connection: Connection) -> int:
            return sum(1 for tag in tags if connection.execute(sql, (template_id, tag)).rowcount)

        return await self._run(_whole(remove))

    async def find_tagged_build(self, template_id: str, tag: str) -> Build | None:
        """See the protocol."""
        sql = (
            f"SELECT {_BUILD} FROM tag_assignments JOIN builds USING (build_id)"  # noqa: S608 - column names are constants
            " WHERE tag_assignments.template_id = ? AND tag_assignments.tag = ? AND builds.status = 'ready'"
            " ORDER BY tag_assignments.number DESC LIMIT 1"
        )
        rows = await self._fetch(sql, (template_id, tag))
        return _build(rows[0]) if rows else None

    async def list_tags(self, template_id: str) -> Sequence[TagAssignment]:
        """See the protocol."""
        sql = (
            f"SELECT {_ASSIGNMENT} FROM tag_assignments JOIN builds USING (build_id)"  # noqa: S608 - column names are constants
            f" WHERE tag_assignments.template_id = ? AND tag_assignments.number IN ({_CURRENT}) ORDER BY tag_assignments.tag"
        )
        return [TagAssignment(**row) for row in await self._fetch(sql, (template_id,))]

    async def list_assignments(self, template_id: str, tag: str, *, before: int | None, limit: int) -> Sequence[TagAssignment]:
        """See the protocol."""
        sql = (
            f"SELECT {_ASSIGNMENT} FROM tag_assignments JOIN builds USING (build_id)"  # noqa: S608 - column names are constants
            " WHERE tag_assignments.template_id = ? AND tag_assignments.tag = ? AND builds.status = 'ready'"
            " AND (? IS NULL OR tag_assignments.number < ?) ORDER BY tag_assignments.number DESC LIMIT ?"
        )
        return [TagAssignment(**row) for row in await self._fetch(sql, (template_id, tag, before, before, limit))]

    async def list_snapshots(
        self, team_id: str, *, sandbox_id: str | None, tag: str | None, before: int | None, limit: int
    ) -> Sequence[TaggedBuild]:
        """See the protocol."""
        names = [field.name for field in dataclasses.fields(OwnedTemplate)]
        columns = ", ".join(f"templates.{name} AS template_{name}" for name in names)
        sql = (
            f"SELECT {columns}, {_ASSIGNMENT} FROM tag_assignments JOIN builds USING (build_id)"  # noqa: S608 - column names are constants
            " JOIN templates ON templates.template_id = tag_assignments.template_id"
            f" WHERE tag_assignments.number IN ({_LATEST_SNAPSHOTS}) AND (? IS NULL OR tag_assignments.number < ?)"
            " ORDER BY tag_assignments.number DESC LIMIT ?"
        )
        wanted = (team_id, sandbox_id, sandbox_id, tag, tag)
        return [
            TaggedBuild(
                _template({name: row.pop(f"template_{name}") for name in names}),
                TagAssignment(**row),
            )
            for row in await self._fetch(sql, (*wanted, before, before, limit))
        ]

    # ---- uploads ----

    async def put_upload(self, upload: Upload) -> None:
        """See the protocol."""
        await self._change(
            "INSERT INTO uploads (team_id, hash, size_bytes, digest, created_at, used_at)"
            " VALUES (:team_id, :hash, :size_bytes, :digest, :created_at, :used_at) ON CONFLICT (team_id, hash) DO UPDATE"
            " SET size_bytes = excluded.size_bytes, digest = excluded.digest, created_at = excluded.created_at, used_at = excluded.used_at",
            dataclasses.asdict(upload),
        )

    async def find_upload(self, team_id: str, upload_hash: str) -> Upload | None:
        """See the protocol."""
        rows = await self._fetch("SELECT * FROM uploads WHERE team_id = ? AND hash = ?", (team_id, upload_hash))
        return Upload(**rows[0]) if rows else None

    async def list_uploads(self) -> Sequence[Upload]:
        """See the protocol."""
        return [Upload(**row) for row in await self._fetch("SELECT * FROM uploads ORDER BY used_at, team_id, hash")]

    async def note_digest(self, upload: Upload, digest: str) -> bool:
        """See the protocol."""
        sql = "UPDATE uploads SET digest = ? WHERE team_id = ? AND hash = ? AND created_at = ?"
        return await self._change(sql, (digest, upload.team_id, upload.hash, upload.created_at)) == 1

    async def use_upload(self, team_id: str, upload_hash: str, at: float) -> None:
        """See the protocol."""
        await self._change("UPDATE uploads SET used_at = ? WHERE team_id = ? AND hash = ?", (at, team_id, upload_hash))

    async def remove_upload(self, upload: Upload) -> bool:
        """See the protocol."""
        sql = "DELETE FROM uploads WHERE team_id = ? AND hash = ? AND created_at = ? AND used_at = ?"
        return await self._change(sql, (upload.team_id, upload.hash, upload.created_at, upload.used_at)) == 1


def _insert(table: str, columns: Iterable[str]) -> str:
    names = tuple(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608 - our own names


def _whole(work: Callable[[Connection], _T]) -> Callable[[Connection], _T]:
    """Wrap ``work`` in a transaction."""
    return lambda connection: connection.whole(work)


def _assign(connection: Connection, template_id: str, build_id: str, tags: Sequence[str], at: float) -> None:
    connection.executemany(
        "INSERT INTO tag_assignments (assignment_id, template_id, tag, build_id, assigned_at) VALUES (?, ?, ?, ?, ?)",
        [(str(uuid.uuid4()), template_id, tag, build_id, at) for tag in tags],
    )


def _template(row: dict[str, Any]) -> OwnedTemplate:
    return OwnedTemplate(**{**row, "kind": TemplateKind(row["kind"]), "public": bool(row["public"])})


def _build_row(build: Build) -> dict[str, Any]:
    return {**dataclasses.asdict(build), "uploads": json.dumps(build.uploads)}


def _build(row: dict[str, Any]) -> Build:
    return Build(**{**row, "status": BuildStatus(row["status"]), "uploads": tuple(json.loads(row["uploads"]))})
