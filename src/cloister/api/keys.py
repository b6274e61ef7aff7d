"""REST handlers of a team's keys: parse, call control, render. A secret is rendered once, by the request that makes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.fields import Fields, shown
from cloister.api.handlers import CALLER, OBJECT_ID, Api, json_answer
from cloister.api.schemas import render_time
from cloister.errors import InvalidRequestError
from cloister.model.team import ApiKey, Team

__all__ = ["create", "create_token", "list_keys", "parse_new_key", "rename", "render_key", "revoke"]

_SECRET_LENGTH = 40
"""Characters of a secret after its prefix."""


async def list_keys(api: Api, _request: web.Request, team: Team) -> web.Response:
    """``GET /api-keys``: the team's keys, oldest first."""
    return json_answer([render_key(key) for key in await api.keys.list_of(team)])


async def create(api: Api, request: web.Request, _team: Team) -> web.Response:
    """``POST /api-keys``."""
    name, expires_at = parse_new_key(await read_json(api, request))
    key, secret = await api.keys.create_by(request[CALLER], name, expires_at)
    request[OBJECT_ID] = key.key_id
    return json_answer({**render_key(key), "key": secret}, status=201)


async def create_token(api: Api, request: web.Request, _team: Team) -> web.Response:
    """``POST /access-tokens``: here a token is a key of the team in another form."""
    name, expires_at = parse_new_key(await read_json(api, request))
    key, secret = await api.keys.create_by(request[CALLER], name, expires_at, is_token=True)
    request[OBJECT_ID] = key.key_id
    return json_answer({**render_key(key), "token": secret}, status=201)


async def rename(api: Api, request: web.Request, team: Team) -> web.Response:
    """``PATCH /api-keys/{key_id}``."""
    fields = Fields(await read_json(api, request), is_strict=True)
    name = fields.take("name", str)
    fields.end()
    await api.keys.rename(team, request.match_info["key_id"], name)
    return web.Response(status=202)


async def revoke(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /api-keys/{key_id}`` and ``DELETE /access-tokens/{key_id}``."""
    await api.keys.revoke_of(team, request.match_info["key_id"], request[CALLER].key)
    return web.Response(status=204)


def parse_new_key(body: object) -> tuple[str, float | None]:
    """Name and end (epoch seconds) of a new key. Raises: InvalidRequestError."""
    fields = Fields(body, is_strict=True)
    name, text = fields.take("name", str), fields.take("expiresAt", str, None)
    fields.end()
    if text is None:
        return name, None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(f"expiresAt is no time: {shown(text)}", hint="give it as 2030-01-31T12:00:00Z") from error
    if at.tzinfo is None:
        raise InvalidRequestError("expiresAt has no time zone", hint="give it as 2030-01-31T12:00:00Z")
    return name, at.timestamp()


def render_key(key: ApiKey) -> dict[str, Any]:
    """``TeamAPIKey`` of the contract, with the time of its end. A key here has no user who made it."""
    start, _, end = key.hint.partition("…")
    prefix = start[: start.rindex("_") + 1]
    return {
        "id": key.key_id,
        "name": key.name,
        "mask": {
            "prefix": prefix,
            "valueLength": _SECRET_LENGTH,
            "maskedValuePrefix": start[len(prefix) : len(prefix) + 2],
            "maskedValueSuffix": end,
        },
        "createdAt": render_time(key.created_at),
        "createdBy": None,
        "lastUsed": None if key.last_used_at is None else render_time(key.last_used_at),
        "expiresAt": None if key.expires_at is None else render_time(key.expires_at),
    }
