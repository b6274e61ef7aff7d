"""REST handlers of template builds and their archives: parse, call control, render."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from cloister.api.bodies import read_json, steady_chunks
from cloister.api.handlers import OBJECT_ID, Api, json_answer
from cloister.api.paging import parse_limit, parse_number
from cloister.api.template_schemas import parse_new_build, parse_plan, render_entry, render_requested, render_template, render_view
from cloister.control.builds.requests import RegisteredBuild
from cloister.errors import AuthenticationError, InvalidRequestError
from cloister.model.build import BuildLogEntry
from cloister.model.team import Team
from cloister.protocol.events import LOG_LEVELS

__all__ = ["UPLOAD_PATH", "cancel", "logs", "offer", "request_build", "request_second_build", "start", "status", "upload"]

UPLOAD_PATH = "/uploads"
_CHUNK = 1 << 18
_MAX_QUERY_BYTES = 1024
"""Bound of an upload link's token. The request needs no key, so a longer token is refused unparsed."""


async def request_build(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v3/templates``."""
    return json_answer(render_requested(await _register(api, request, team)), status=202)


async def request_second_build(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v2/templates``, of SDKs to 2.3: the answer is a whole template."""
    requested = await _register(api, request, team)
    view = await api.templates.view(team, requested.template.template_id)
    return json_answer({**render_template(view), "buildID": requested.build.build_id}, status=202)


async def _register(api: Api, request: web.Request, team: Team) -> RegisteredBuild:
    requested = await api.builds.registration.register(team, parse_new_build(await read_json(api, request), team.team_id))
    request[OBJECT_ID] = f"{requested.template.template_id}/{requested.build.build_id}"
    return requested


async def offer(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/files/{hash}``: whether the archive was uploaded, and the link to upload it."""
    await api.templates.find_own(team, request.match_info["template_id"])
    present, token = await api.uploads.offer(team.team_id, request.match_info["hash"])
    return json_answer({"present": present, "url": f"{_base_url(request)}{UPLOAD_PATH}?token={token}"}, status=201)


def _base_url(request: web.Request) -> str:
    """The base URL of this API, as in the client's request."""
    scheme = request.headers.get("X-Forwarded-Proto", "").strip().lower()
    return f"{scheme if scheme in {'http', 'https'} else request.scheme}://{request.host}"


async def upload(api: Api, request: web.Request) -> web.Response:
    """``PUT /uploads?token=``: needs no key."""
    if len(request.rel_url.raw_query_string) > _MAX_QUERY_BYTES:
        raise AuthenticationError("the upload link is not valid")
    chunks = steady_chunks(request.content, _CHUNK, api.deadlines.stall_s)
    await api.uploads.receive(request.query.get("token", ""), request.content_length, chunks)
    return web.Response(status=200)


async def start(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v2/templates/{template_id}/builds/{build_id}``."""
    await api.builds.start(
        team, request.match_info["template_id"], request.match_info["build_id"], parse_plan(await read_json(api, request))
    )
    return json_answer({}, status=202)


async def status(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/builds/{build_id}/status``."""
    view = await api.builds.status(
        team,
        request.match_info["template_id"],
        request.match_info["build_id"],
        offset=parse_number(request.query, "logsOffset", 0),
        limit=parse_limit(request.query),
        levels=_levels(request),
    )
    return json_answer(render_view(view.build.template_id, view))


def _levels(request: web.Request) -> Sequence[str]:
    """The requested levels; empty: all."""
    level = request.query.get("level") or LOG_LEVELS[0]
    if level not in LOG_LEVELS:
        raise InvalidRequestError(f"level must be one of {', '.join(LOG_LEVELS)}")
    return LOG_LEVELS[LOG_LEVELS.index(level) :] if level != LOG_LEVELS[0] else ()


async def logs(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/builds/{build_id}/logs``: from ``cursor`` (milliseconds), oldest or latest first."""
    backward = request.query.get("direction") == "backward"
    if request.query.get("direction") not in {None, "", "forward", "backward"}:
        raise InvalidRequestError("direction must be forward or backward")
    limit, cursor, levels = parse_limit(request.query), parse_number(request.query, "cursor", 0), _levels(request)
    entries = [
        entry
        for entry in await api.builds.log(team, request.match_info["template_id"], request.match_info["build_id"])
        if (not levels or entry.level in levels) and (not cursor or _is_beyond(entry, cursor, backward=backward))
    ]
    if backward:
        entries.reverse()
    return json_answer({"logs": [render_entry(entry) for entry in entries[:limit]]})


def _is_beyond(entry: BuildLogEntry, cursor_ms: int, *, backward: bool) -> bool:
    at_ms = int(entry.at * 1000)
    return at_ms < cursor_ms if backward else at_ms >= cursor_ms


async def cancel(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /templates/{template_id}/builds/{build_id}``: ends a build. This server adds it to the published API."""
    await api.builds.cancel(team, request.match_info["template_id"], request.match_info["build_id"])
    return web.Response(status=204)
