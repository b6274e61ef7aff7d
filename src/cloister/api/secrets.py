"""REST handlers of secrets: parse, call control, render. No value is ever rendered."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.fields import Fields
from cloister.api.handlers import OBJECT_ID, Api, json_answer
from cloister.api.paging import take_page
from cloister.api.schemas import render_time
from cloister.control.secrets import NewSecret
from cloister.errors import InvalidRequestError
from cloister.model.secret import Secret
from cloister.model.stored_secret import StoredSecret, is_secret_name
from cloister.model.team import Team
from cloister.model.text import size_of_text

__all__ = ["create", "delete", "get", "list_all", "update"]

_INVALID = "Invalid secrets request"
"""The published words."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_METADATA_ENTRIES = 32
_MAX_METADATA_KEY_BYTES = 128
_MAX_METADATA_VALUE_BYTES = 1024
_MAX_METADATA_BYTES = 8192


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /secrets``."""
    made = await api.secrets.create(team.team_id, _parse_new(await read_json(api, request)))
    request[OBJECT_ID] = made.secret_id
    return json_answer(_render(made), status=201)


async def list_all(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /secrets``: in pages, latest first."""
    rows = await api.secrets.list(team.team_id)
    page, following = take_page([((row.created_at, row.secret_id), row) for row in rows], request.query)
    return json_answer([_render(row) for row in page], headers={} if following is None else {"X-Next-Token": following})


async def get(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /secrets/{secret_id}``, by id or name."""
    return json_answer(_render(await api.secrets.get(team.team_id, request.match_info["secret_id"])))


async def update(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /secrets/{secret_id}``: a new value, and new metadata if there is any."""
    fields = _fields(await read_json(api, request))
    value, metadata = _parse_value(fields), _parse_metadata(fields)
    fields.end()
    return json_answer(_render(await api.secrets.update(team.team_id, request.match_info["secret_id"], value, metadata)))


async def delete(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /secrets/{secret_id}``, by id or name."""
    await api.secrets.delete(team.team_id, request.match_info["secret_id"])
    return web.Response(status=204)


def _fields(body: object) -> Fields:
    return Fields(body, is_strict=True)


def _parse_new(body: object) -> NewSecret:
    fields = _fields(body)
    name = fields.take("name", str).strip().lower()
    value, metadata = _parse_value(fields), _parse_metadata(fields)
    fields.end()
    if not is_secret_name(name):
        raise InvalidRequestError(_INVALID, hint="name must be 1 to 128 of a-z, 0-9, '_' and '-', and not begin with sec_")
    return NewSecret(name=name, value=value, metadata=metadata or {})


def _parse_value(fields: Fields) -> Secret:
    value = fields.take("value", str)
    if not value or _CONTROL.search(value) or value != value.strip(" \t"):
        raise InvalidRequestError(_INVALID, hint="value must have a text, without control characters or space around it")
    return Secret(value)


def _parse_metadata(fields: Fields) -> dict[str, str] | None:
    metadata: dict[str, Any] | None = fields.take("metadata", dict, None)
    if metadata is None:
        return None
    size = 0
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise InvalidRequestError(_INVALID, hint="metadata must have texts as values")
        sizes = size_of_text(key, "metadata: a key"), size_of_text(value, "metadata: a value")
        size += sum(sizes)
        if sizes[0] > _MAX_METADATA_KEY_BYTES or sizes[1] > _MAX_METADATA_VALUE_BYTES:
            hint = f"a key of metadata may have at most {_MAX_METADATA_KEY_BYTES} bytes, a value {_MAX_METADATA_VALUE_BYTES}"
            raise InvalidRequestError(_INVALID, hint=hint)
    if len(metadata) > _MAX_METADATA_ENTRIES or size > _MAX_METADATA_BYTES:
        hint = f"metadata may have at most {_MAX_METADATA_ENTRIES} entries and {_MAX_METADATA_BYTES} bytes"
        raise InvalidRequestError(_INVALID, hint=hint)
    return metadata


def _render(row: StoredSecret) -> dict[str, Any]:
    """``Secret`` of the contract."""
    return {
        "secretID": row.secret_id,
        "name": row.name,
        "currentVersion": row.version,
        "metadata": row.metadata,
        "createdAt": render_time(row.created_at),
        "updatedAt": render_time(row.updated_at),
    }
