"""REST handlers of sandboxes' networks: parse, call control. No rules here."""

from __future__ import annotations

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import Api, path_sandbox_id
from cloister.api.network_fields import parse_network_update
from cloister.model.team import Team

__all__ = ["change"]


async def change(api: Api, request: web.Request, team: Team) -> web.Response:
    """``PUT /sandboxes/{sandbox_id}/network``: replaces the rules of the egress."""
    sandbox_id = path_sandbox_id(request)
    update = parse_network_update(await read_json(api, request, default={}))
    await api.networks.change(team.team_id, sandbox_id, update.egress, update.sent)
    return web.Response(status=204)
