"""Authenticates requests by the keys in their headers, or by the console's session."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from cloister.api.cookies import session_key
from cloister.api.handlers import CALLER, KEY_ID, PEER, TEAM_ID, Api
from cloister.control.keys import HashedKey
from cloister.errors import AuthenticationError
from cloister.model.team import ApiKey, KeyScope, Team

__all__ = ["authenticate", "check_scope", "given_key", "note_key", "slow_failures"]

_T = TypeVar("_T")

_BEARER = "Bearer "


def given_key(request: web.Request) -> str | None:
    """The key in ``X-API-KEY``, or in ``Authorization: Bearer``, as the CLI's login and Prometheus send it."""
    key = request.headers.get("X-API-KEY")
    authorization = request.headers.get("Authorization", "")
    return authorization[len(_BEARER) :] if key is None and authorization.startswith(_BEARER) else key


def _shown_key(api: Api, request: web.Request) -> str | HashedKey | None:
    """The key in a header, or else that of the console's session. Raises: as :func:`cloister.api.cookies.session_key`."""
    key = given_key(request)
    return session_key(api.sessions, request) if key is None else key


async def authenticate(api: Api, request: web.Request) -> Team:
    """The team of the request's key.

    Raises:
        AuthenticationError: the key is missing or not valid.
        TooManyFailuresError: the key is not valid, and the client sent many such keys before.
    """
    key = _shown_key(api, request)
    caller = await slow_failures(api, request, api.keys.authenticate(key), counted=bool(key))
    request[CALLER] = caller
    note_key(api, request, caller.key, caller.team)
    return caller.team


async def check_scope(api: Api, request: web.Request, scope: KeyScope) -> None:
    """Check an operator's key, of ``GET /metrics`` or of the routes below ``/admin``.

    Raises:
        AuthenticationError, TooManyFailuresError: as :func:`authenticate`.
        PermissionDeniedError: it is a key of another scope.
    """
    key = _shown_key(api, request)
    if scope is KeyScope.ADMIN:
        key = request.headers.get("X-Admin-Token", key)
    note_key(api, request, await slow_failures(api, request, api.keys.check_scope(key, scope), counted=bool(key)))


def note_key(api: Api, request: web.Request, key: ApiKey, team: Team | None = None) -> None:
    """For the request's log line and the audit log: an operator finds by them who uses a key."""
    request[KEY_ID], request[PEER] = key.key_id, api.peers.address(request)
    if team is not None:
        request[TEAM_ID] = team.team_id


async def slow_failures(api: Api, request: web.Request, check: Awaitable[_T], *, counted: bool = True) -> _T:
    """Await ``check``; delays its AuthenticationError for a client that fails often. Raises: as ``check``, TooManyFailuresError."""
    try:
        return await check
    except AuthenticationError:
        if counted:
            await api.failures.note(request)
        raise
