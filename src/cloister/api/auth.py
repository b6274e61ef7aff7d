"""Whose request this is: API keys in headers."""

from __future__ import annotations

from aiohttp import web

from cloister.api.handlers import TEAM_ID
from cloister.control.keys import Keys
from cloister.store.base import Team

__all__ = ["authenticate"]

_BEARER = "Bearer "


async def authenticate(request: web.Request, keys: Keys) -> Team:
    """The team of the key in ``X-API-KEY``, or in ``Authorization: Bearer`` as the CLI's login sends it.

    Raises:
        AuthenticationError: there is none, or it is not valid.
    """
    key = request.headers.get("X-API-KEY")
    authorization = request.headers.get("Authorization", "")
    if key is None and authorization.startswith(_BEARER):
        key = authorization[len(_BEARER) :]
    team = await keys.authenticate(key)
    request[TEAM_ID] = team.team_id
    return team
