"""REST handlers of snapshots: parse, call control, render. The route of templates deletes them."""

from __future__ import annotations

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import Api, json_answer, path_sandbox_id
from cloister.api.paging import parse_cursor, parse_limit, render_cursor
from cloister.api.template_schemas import parse_snapshot, render_snapshot
from cloister.model.team import Team

__all__ = ["create", "list_snapshots"]


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/snapshots``."""
    name, memory = parse_snapshot(await read_json(api, request, default={}))
    snapshot = await api.snapshots.create(team, path_sandbox_id(request), name, memory=memory)
    return json_answer({**render_snapshot(snapshot), "memory": snapshot.has_memory}, status=201)


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
