"""REST handlers of volumes: parse, call control, render."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.fields import Fields
from cloister.api.handlers import OBJECT_ID, Api, json_answer
from cloister.api.schemas import render_time
from cloister.model.team import Team
from cloister.model.volume import Volume, VolumeUse

__all__ = ["copy", "create", "delete", "get", "list_all"]


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /volumes``."""
    fields = Fields(await read_json(api, request), is_strict=True)
    name, size_mib = fields.take("name", str), fields.take("sizeMB", int, None)
    fields.end()
    made = await api.volumes.create(team.team_id, name, size_mib)
    request[OBJECT_ID] = made.volume_id
    return json_answer(_render_opened(api, made), status=201)


async def list_all(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /volumes``: all of the team's, oldest first, with their use."""
    del request
    rows = await api.volumes.list(team.team_id)
    uses = await api.volumes.uses() if rows else {}
    return json_answer([_render(row, uses.get(row.volume_id)) for row in rows])


async def get(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /volumes/{volume_id}``: with a new token."""
    return json_answer(_render_opened(api, await api.volumes.get(team.team_id, request.match_info["volume_id"])))


async def delete(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /volumes/{volume_id}``."""
    await api.volumes.delete(team.team_id, request.match_info["volume_id"])
    return web.Response(status=204)


async def copy(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /volumes/{volume_id}/copy``: a new volume with the data that the volume has now."""
    fields = Fields(await read_json(api, request), is_strict=True)
    name = fields.take("name", str)
    fields.end()
    made = await api.volumes.copy(team.team_id, request.match_info["volume_id"], name)
    request[OBJECT_ID] = made.volume_id
    return json_answer(_render_opened(api, made), status=201)


def _render(row: Volume, use: VolumeUse | None = None) -> dict[str, Any]:
    """``Volume`` of the contract, with its size and use."""
    described = {"volumeID": row.volume_id, "name": row.name, "sizeMB": row.size_mib, "createdAt": render_time(row.created_at)}
    if use is None:
        return described
    return {**described, "usedBytes": use.used_bytes, "files": use.files, "sandboxes": use.sandboxes}


def _render_opened(api: Api, row: Volume) -> dict[str, Any]:
    """``VolumeAndToken`` of the contract."""
    return {**_render(row), "token": api.volumes.token(row)}
