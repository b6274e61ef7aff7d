"""REST handlers of template builds and of the archives for them: parse, call control, render."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from cloister.api.handlers import Api, json_answer, read_json
from cloister.api.paging import parse_limit, parse_number
from cloister.api.template_schemas import parse_new_build, parse_plan, render_entry, render_requested, render_view
from cloister.control.reports import LEVELS
from cloister.control.uploads import Uploads
from cloister.errors import InvalidRequestError
from cloister.model.build import BuildLogEntry
from cloister.store.base import Team

__all__ = ["UPLOAD_PATH", "cancel", "logs", "offer", "request_build", "start", "status", "upload"]

UPLOAD_PATH = "/uploads"
_CHUNK = 1 << 18


async def request_build(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v3/templates``."""
    requested = await api.builds.request(team, parse_new_build(await read_json(request), team.team_id))
    return json_answer(render_requested(requested), status=202)


async def offer(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/files/{hash}``: whether the archive is here, and where to upload it to."""
    await api.templates.find_own(team, request.match_info["template_id"])
    present, token = await api.uploads.offer(team.team_id, request.match_info["hash"])
    return json_answer({"present": present, "url": f"{_base_url(request)}{UPLOAD_PATH}?token={token}"}, status=201)


def _base_url(request: web.Request) -> str:
    """How the client reaches this API, by its own request."""
    scheme = request.headers.get("X-Forwarded-Proto", "").strip().lower()
    return f"{scheme if scheme in {'http', 'https'} else request.scheme}://{request.host}"


async def upload(uploads: Uploads, request: web.Request) -> web.Response:
    """``PUT /uploads?token=``: needs no key."""
    await uploads.receive(request.query.get("token", ""), request.content_length, request.content.iter_chunked(_CHUNK))
    return web.Response(status=200)


async def start(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /v2/templates/{template_id}/builds/{build_id}``."""
    await api.builds.start(team, request.match_info["template_id"], request.match_info["build_id"], parse_plan(await read_json(request)))
    return json_answer({}, status=202)


async def status(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/builds/{build_id}/status``."""
    view = await api.builds.report(
        team,
        request.match_info["template_id"],
        request.match_info["build_id"],
        offset=parse_number(request.query, "logsOffset", 0),
        limit=parse_limit(request.query),
        levels=_levels(request),
    )
    return json_answer(render_view(view.build.template_id, view))


def _levels(request: web.Request) -> Sequence[str]:
    """The levels asked for, none if all are."""
    level = request.query.get("level") or LEVELS[0]
    if level not in LEVELS:
        raise InvalidRequestError(f"level must be one of {', '.join(LEVELS)}")
    return LEVELS[LEVELS.index(level) :] if level != LEVELS[0] else ()


async def logs(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/builds/{build_id}/logs``: from ``cursor`` (milliseconds) on, oldest or latest first."""
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
    """``DELETE /templates/{template_id}/builds/{build_id}``: ends a build; an addition of this server to the published API."""
    await api.builds.cancel(team, request.match_info["template_id"], request.match_info["build_id"])
    return web.Response(status=204)
