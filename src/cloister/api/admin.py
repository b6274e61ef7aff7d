"""REST handlers for the operator: teams, their limits and their keys. Each request has a key of the scope ``admin``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.fields import Fields, shown
from cloister.api.handlers import OBJECT_ID, TEAM_ID, Api, json_answer, path_sandbox_id
from cloister.api.keys import parse_new_key, render_key
from cloister.api.listing import parse_list_query
from cloister.api.schemas import render_listed, render_time
from cloister.errors import InvalidRequestError, SandboxNotFoundError
from cloister.model.team import Team

__all__ = [
    "create_key",
    "create_team",
    "get_team",
    "kill_sandbox",
    "kill_sandboxes",
    "limit_team",
    "list_keys",
    "list_sandboxes",
    "list_teams",
    "node_state",
    "remove_team",
    "revoke_key",
    "running_counts",
]

_WIRE = {
    "sandboxes": "sandboxes",
    "paused": "paused",
    "cpuCount": "cpu_count",
    "memoryMB": "mem_mib",
    "diskSizeMB": "disk_mib",
    "creationsPerSecond": "creations_per_s",
    "networkMbitPerSecond": "network_mbit_per_s",
    "networkPacketsPerSecond": "network_packets_per_s",
    "networkConnectionsPerSecond": "network_connections_per_s",
    "networkVolumeMiBPerDay": "network_volume_mib_per_day",
}
"""Limits by their names in requests and answers."""
_TRUTH = {"true": True, "false": False}


async def list_teams(api: Api, _request: web.Request) -> web.Response:
    """``GET /admin/teams``: all teams, oldest first."""
    return json_answer([_render(api, team) for team in await api.team_admin.teams.list()])


async def create_team(api: Api, request: web.Request) -> web.Response:
    """``POST /admin/teams``."""
    fields = Fields(await read_json(api, request), is_strict=True)
    name, changes = fields.take("name", str), _parse_limits(fields)
    fields.end()
    team = await api.team_admin.create(name, changes)
    request[TEAM_ID] = request[OBJECT_ID] = team.team_id
    return json_answer(_render(api, team), status=201)


async def get_team(api: Api, request: web.Request) -> web.Response:
    """``GET /admin/teams/{team_id}``, by id or name: the team with what it has."""
    team = await _team(api, request)
    return json_answer({**_render(api, team), "has": dict(await api.team_admin.teams.goods(team))})


async def limit_team(api: Api, request: web.Request) -> web.Response:
    """``PATCH /admin/teams/{team_id}``: the limits that the body names; null takes one away."""
    fields = Fields(await read_json(api, request), is_strict=True)
    changes = _parse_limits(fields)
    fields.end()
    return json_answer(_render(api, await api.team_admin.limit(await _team(api, request), changes)))


async def remove_team(api: Api, request: web.Request) -> web.Response:
    """``DELETE /admin/teams/{team_id}``; with ``?kill=true`` its sandboxes are killed."""
    kill = _TRUTH.get(request.query.get("kill", "false"))
    if kill is None:
        raise InvalidRequestError("kill must be true or false")
    return json_answer({"killedCount": await api.team_admin.remove(await _team(api, request), kill=kill)})


async def list_keys(api: Api, request: web.Request) -> web.Response:
    """``GET /admin/teams/{team_id}/api-keys``."""
    return json_answer([render_key(key) for key in await api.keys.list_of(await _team(api, request))])


async def create_key(api: Api, request: web.Request) -> web.Response:
    """``POST /admin/teams/{team_id}/api-keys``."""
    name, expires_at = parse_new_key(await read_json(api, request))
    key, secret = await api.keys.create_for(await _team(api, request), name, expires_at)
    request[OBJECT_ID] = key.key_id
    return json_answer({**render_key(key), "key": secret}, status=201)


async def revoke_key(api: Api, request: web.Request) -> web.Response:
    """``DELETE /admin/teams/{team_id}/api-keys/{key_id}``."""
    await api.keys.revoke_of(await _team(api, request), request.match_info["key_id"])
    return web.Response(status=204)


async def kill_sandboxes(api: Api, request: web.Request) -> web.Response:
    """``POST /admin/teams/{team_id}/sandboxes/kill``: ends all sandboxes of the team."""
    return json_answer({"killedCount": await api.team_admin.kill_sandboxes(await _team(api, request)), "failedCount": 0})


async def running_counts(api: Api, _request: web.Request) -> web.Response:
    """``GET /admin/sandboxes/running-counts``: by team id, teams with none left out."""
    counts = {team.team_id: api.team_admin.use_of(team).sandboxes for team in await api.team_admin.teams.list()}
    return json_answer({team_id: count for team_id, count in counts.items() if count})


async def list_sandboxes(api: Api, request: web.Request) -> web.Response:
    """``GET /admin/sandboxes``: those of all teams, filtered and in pages as ``GET /v2/sandboxes``, each with its team."""
    query = parse_list_query(request.query)
    page, next_token = query.page([row for row in api.sandboxes.all_live() if query.accepts(row)])
    headers = {} if next_token is None else {"X-Next-Token": next_token}
    return json_answer([{**render_listed(row), "teamID": row.team_id} for row in page], headers=headers)


async def kill_sandbox(api: Api, request: web.Request) -> web.Response:
    """``DELETE /admin/sandboxes/{sandbox_id}``: ends a sandbox of any team."""
    sandbox_id = path_sandbox_id(request)
    row = next((one for one in api.sandboxes.all_live() if one.sandbox_id == sandbox_id), None)
    if row is None:
        raise SandboxNotFoundError(f"no team has a live sandbox {sandbox_id}")
    request[TEAM_ID] = row.team_id
    await api.sandboxes.kill(row.team_id, sandbox_id)
    return web.Response(status=204)


async def node_state(api: Api, _request: web.Request) -> web.Response:
    """``GET /admin/node``: the state of the node, and the milliseconds until it answered."""
    began = time.perf_counter()
    node = await api.sandboxes.node_info()
    return json_answer(
        {
            "nodeID": node.node_id,
            "version": node.version,
            "startedAt": render_time(node.started_at),
            "draining": node.drain is not None,
            "answerMs": round((time.perf_counter() - began) * 1000, 2),
            "memory": node.memory,
            "disk": node.disk,
            "pool": node.pool,
            "creations": node.creations,
            "builds": node.builds,
            "limitsMet": node.limits_met,
            "descriptors": node.descriptors,
        }
    )


async def _team(api: Api, request: web.Request) -> Team:
    team = await api.team_admin.teams.find(request.match_info["team_id"])
    request[TEAM_ID] = team.team_id
    return team


def _parse_limits(fields: Fields) -> dict[str, object]:
    """Changes of limits by name; None takes one away. Raises: InvalidRequestError: an unknown limit."""
    given: Mapping[str, object] = fields.take("limits", dict, {})
    unknown = [name for name in given if name not in _WIRE]
    if unknown:
        raise InvalidRequestError(f"limits.{shown(unknown[0])} is no limit of a team", hint=f"the limits are {', '.join(_WIRE)}")
    return {_WIRE[name]: value for name, value in given.items()}


def _render(api: Api, team: Team) -> dict[str, Any]:
    """A team with its own limits, those that hold for it, and its use."""
    held, use = api.team_admin.limits_of(team), api.team_admin.use_of(team)
    return {
        "teamID": team.team_id,
        "name": team.name,
        "createdAt": render_time(team.created_at),
        "limits": {wire: getattr(team.limits, name) for wire, name in _WIRE.items()},
        "effectiveLimits": {wire: getattr(held, name) for wire, name in _WIRE.items()},
        "use": {wire: getattr(use, name) for wire, name in _WIRE.items() if hasattr(use, name)},
    }
