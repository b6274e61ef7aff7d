"""REST handlers of pauses, resumes and lifetimes of sandboxes: parse, call control, render. No rules here."""

from __future__ import annotations

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import Api, json_answer, path_sandbox_id
from cloister.api.schemas import parse_connect, parse_pause, parse_resume, parse_timeout, render_created
from cloister.model.team import Team

__all__ = ["connect", "connect_v2", "pause", "resume", "set_timeout"]


async def pause(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/pause``."""
    memory, needs_agent = parse_pause(await read_json(api, request, default={}))
    await api.pausing.pause(team.team_id, path_sandbox_id(request), memory=memory, needs_agent=needs_agent)
    return web.Response(status=204)


async def resume(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/resume``."""
    row = await api.pausing.resume(team.team_id, path_sandbox_id(request), parse_resume(await read_json(api, request, default={})))
    return json_answer(render_created(row, api.domain), status=201)


async def _connect(api: Api, request: web.Request, team: Team, api_version: int) -> web.Response:
    wish = parse_connect(await read_json(api, request, default={}), api_version=api_version)
    row, is_resumed = await api.pausing.connect(team.team_id, path_sandbox_id(request), wish)
    return json_answer(render_created(row, api.domain), status=201 if is_resumed else 200)


async def connect(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/connect``: resumes it if it is paused."""
    return await _connect(api, request, team, 1)


async def connect_v2(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v2/sandboxes/{sandbox_id}/connect``: resumes it if it is paused."""
    return await _connect(api, request, team, 2)


async def set_timeout(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/timeout``: 0 kills the sandbox, or pauses it if that is how its lifetime ends."""
    await api.pausing.set_timeout(team.team_id, path_sandbox_id(request), parse_timeout(await read_json(api, request)))
    return web.Response(status=204)
