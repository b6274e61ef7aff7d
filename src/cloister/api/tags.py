"""REST handlers of template tags: parse, call control, render."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import Api, json_answer
from cloister.api.paging import parse_cursor, parse_limit, render_cursor
from cloister.api.schemas import render_time
from cloister.api.template_schemas import parse_tags, render_assignment, render_tag
from cloister.control.names import DEFAULT_TAG, clean_tags
from cloister.errors import InvalidRequestError
from cloister.model.team import Team

__all__ = ["assign", "assignments", "count", "exists", "groups", "list_tags", "remove"]

_SORTS = {"latest_desc": True, "latest_asc": False, "name_desc": True, "name_asc": False}


async def assign(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /templates/tags``."""
    target, tags = parse_tags(await read_json(api, request), "target")
    cleaned = clean_tags(tags)
    build = await api.templates.assign_tags(team, target, cleaned)
    return json_answer({"buildID": build.build_id, "tags": cleaned}, status=201)


async def remove(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /templates/tags``."""
    name, tags = parse_tags(await read_json(api, request), "name")
    await api.templates.remove_tags(team, name, clean_tags(tags))
    return web.Response(status=204)


async def list_tags(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/tags``: the tags with their builds, latest first."""
    stock = await api.templates.find_stock(request.match_info["template_id"].strip().lower())
    if stock is not None:
        created_at = render_time(stock.created_at or api.templates.since)
        return json_answer([{"tag": DEFAULT_TAG, "buildID": stock.build_id, "createdAt": created_at}])
    _, tags = await api.templates.tags(team, request.match_info["template_id"])
    return json_answer([render_tag(one) for one in sorted(tags, key=lambda one: -one.number)])


async def count(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/tags/count``."""
    _, tags = await api.templates.tags(team, request.match_info["template_id"])
    return json_answer({"total": len(tags)})


async def exists(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/tags/exists?tag=``."""
    (tag,) = clean_tags([request.query.get("tag", "")])
    _, tags = await api.templates.tags(team, request.match_info["template_id"])
    return json_answer({"exists": any(one.tag == tag for one in tags), "normalizedTag": tag})


async def groups(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/tags/groups``: pages of tags, each with its latest assignments."""
    sort, search = request.query.get("sort") or "latest_desc", request.query.get("search", "").lower()
    if sort not in _SORTS:
        raise InvalidRequestError(f"sort must be one of {', '.join(_SORTS)}")
    limit, history = parse_limit(request.query, "tagsLimit", default=25), parse_limit(request.query, "assignmentLimit", default=6)
    skipped = parse_cursor(request.query, "tagsCursor") or 0
    row, tags = await api.templates.tags(team, request.match_info["template_id"])
    found = [one for one in tags if search in one.tag]
    found.sort(key=lambda one: one.tag if sort.startswith("name") else f"{one.number:020}", reverse=_SORTS[sort])
    rendered: list[dict[str, Any]] = []
    for one in found[skipped : skipped + limit]:
        latest = await api.templates.assignments(row.template_id, one.tag, before=None, limit=history + 1)
        shown = [render_assignment(assignment) for assignment in latest[:history]]
        rendered.append({"tag": one.tag, "assignments": shown, "hasMore": len(latest) > history})
    more = render_cursor(skipped + limit) if len(found) > skipped + limit else None
    return json_answer({"tags": rendered, "nextCursor": more})


async def assignments(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}/tags/{tag}/assignments``: latest first, in pages."""
    (tag,) = clean_tags([request.match_info["tag"]])
    limit, before = parse_limit(request.query, default=50), parse_cursor(request.query, "cursor")
    row, _ = await api.templates.tags(team, request.match_info["template_id"])
    found = await api.templates.assignments(row.template_id, tag, before=before, limit=limit + 1)
    more = render_cursor(found[limit - 1].number) if len(found) > limit else None
    return json_answer({"data": [render_assignment(one) for one in found[:limit]], "nextCursor": more})
