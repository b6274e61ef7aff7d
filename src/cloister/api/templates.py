"""REST handlers of templates and teams: parse, call control, render."""

from __future__ import annotations

from aiohttp import web

from cloister.api.handlers import Api, json_answer
from cloister.api.schemas import render_team, render_template
from cloister.store.base import Team

__all__ = ["find_alias", "list_teams", "list_templates"]


async def list_templates(api: Api, _request: web.Request, _team: Team) -> web.Response:
    """``GET /templates`` and ``GET /v2/templates``."""
    return json_answer([render_template(template, api.templates.since) for template in await api.templates.list()])


async def find_alias(api: Api, request: web.Request, _team: Team) -> web.Response:
    """``GET /templates/aliases/{alias}``."""
    template = await api.templates.find(request.match_info["alias"])
    return json_answer({"templateID": template.template_id, "public": True})


async def list_teams(_api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /teams``: the one team of the key that asks."""
    key = request.headers.get("X-API-KEY") or request.headers.get("Authorization", "").removeprefix("Bearer ")
    return json_answer([render_team(team, key)])
