"""REST handlers of sandboxes: parse, call control, render. No rules here."""

from __future__ import annotations

import math
from dataclasses import replace

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import SANDBOX_ID, Api, json_answer, path_sandbox_id
from cloister.api.listing import parse_list_query, parse_metadata
from cloister.api.schemas import (
    is_running,
    parse_idempotency_key,
    parse_new_sandbox,
    parse_refresh,
    render_created,
    render_detail,
    render_listed,
    render_metric,
)
from cloister.errors import InvalidRequestError, SandboxNotFoundError
from cloister.model.team import Team

__all__ = [
    "create",
    "create_v2",
    "get",
    "kill",
    "list_all",
    "list_running",
    "metrics",
    "metrics_of_many",
    "refresh",
]

_MAX_METRICS = 100


async def _create(api: Api, request: web.Request, team: Team, api_version: int) -> web.Response:
    key = parse_idempotency_key(request.headers.get("Idempotency-Key"))
    new, mounts = parse_new_sandbox(await read_json(api, request), api_version=api_version, idempotency_key=key)
    await api.networks.check(team.team_id, new.egress)
    volumes = await api.volumes.find_mounts(team.team_id, mounts)
    new = replace(new, volumes=volumes, node_id=await api.volumes.find_node(volumes))
    row = await api.sandboxes.create(team.team_id, new)
    request[SANDBOX_ID] = row.sandbox_id
    return json_answer(render_created(row, api.domain), status=201)


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes``."""
    return await _create(api, request, team, 1)


async def create_v2(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v2/sandboxes``."""
    return await _create(api, request, team, 2)


async def get(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes/{sandbox_id}``."""
    return json_answer(render_detail(api.sandboxes.get(team.team_id, path_sandbox_id(request)), api.domain))


async def kill(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /sandboxes/{sandbox_id}``."""
    await api.sandboxes.kill(team.team_id, path_sandbox_id(request))
    return web.Response(status=204)


async def list_running(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes``: all running sandboxes with the metadata."""
    wanted = parse_metadata(request.query.get("metadata", "")).items()
    rows = api.sandboxes.list(team.team_id, lambda row: is_running(row) and all(row.metadata.get(key) == value for key, value in wanted))
    return json_answer([render_listed(row) for row in rows])


async def list_all(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /v2/sandboxes``: filtered, in pages."""
    query = parse_list_query(request.query)
    rows = api.sandboxes.list(team.team_id, query.accepts)
    page, next_token = query.page(rows)
    headers = {"X-Total-Running": str(sum(is_running(row) for row in rows))} if "running" in query.states else {}
    if next_token is not None:
        headers["X-Next-Token"] = next_token
    return json_answer([render_listed(row) for row in page], headers=headers)


async def refresh(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/refreshes``: never shortens the lifetime."""
    duration_s = parse_refresh(await read_json(api, request, default={}))
    await api.sandboxes.set_timeout(team.team_id, path_sandbox_id(request), duration_s, only_extend=True)
    return web.Response(status=204)


async def metrics(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes/{sandbox_id}/metrics``: its samples from ``start`` to ``end`` (seconds), or of its whole life."""
    start, end = _unix(request, "start"), _unix(request, "end")
    if start is not None and end is not None and start > end:
        raise InvalidRequestError("start must not be after end")
    row, found = await api.sandboxes.metrics(team.team_id, path_sandbox_id(request), start, end)
    return json_answer([render_metric(row, found, sample) for sample in found.samples])


async def metrics_of_many(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes/metrics?sandbox_ids=``: the newest sample of each live sandbox."""
    ids = [one for one in request.query.get("sandbox_ids", "").split(",") if one]
    if not ids or len(ids) > _MAX_METRICS:
        raise InvalidRequestError(f"sandbox_ids must name 1 to {_MAX_METRICS} sandboxes")
    rendered = {}
    for one in ids:
        try:
            row, found = await api.sandboxes.metrics(team.team_id, one, newest=1)
        except SandboxNotFoundError:
            continue
        if found.samples:
            rendered[one] = render_metric(row, found, found.samples[-1])
    return json_answer({"sandboxes": rendered})


def _unix(request: web.Request, name: str) -> float | None:
    text = request.query.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequestError(f"{name} must be seconds since the epoch")
    return value
