"""REST handlers of snapshots: parse, call control, render. They are deleted as templates are."""

from __future__ import annotations

from aiohttp import web

from cloister.api.handlers import Api, json_answer, read_json
from cloister.api.paging import parse_cursor, parse_limit, render_cursor
from cloister.api.template_schemas import parse_snapshot, render_snapshot
from cloister.store.base import Team

__all__ = ["create", "list_snapshots"]


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/snapshots``."""
    name = parse_snapshot(await read_json(request, default={}))
    snapshot = await api.snapshots.create(team, request.match_info["sandbox_id"].partition("-")[0], name)
    return json_answer(render_snapshot(snapshot), status=201)


async def list_snapshots(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /snapshots``: filtered, latest first, in pages."""
    page = await api.snapshots.list(
        team,
        sandbox_id=request.query.get("sandboxID") or None,
        name=request.query.get("name") or None,
        before=parse_cursor(request.query, "nextToken"),
        limit=parse_limit(request.query),
    )
    headers = {} if page.before is None else {"X-Next-Token": render_cursor(page.before)}
    return json_answer([render_snapshot(one) for one in page.snapshots], headers=headers)
