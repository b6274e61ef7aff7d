"""Authenticates requests by the keys in their headers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from cloister.api.handlers import CALLER, KEY_ID, PEER, TEAM_ID, Api
from cloister.errors import AuthenticationError
from cloister.model.team import ApiKey, KeyScope, Team

__all__ = ["authenticate", "check_scope", "given_key", "slow_failures"]

_T = TypeVar("_T")

_BEARER = "Bearer "


def given_key(request: web.Request) -> str | None:
    """The key in ``X-API-KEY``, or in ``Authorization: Bearer``, as the CLI's login and Prometheus send it."""
    key = request.headers.get("X-API-KEY")
    authorization = request.headers.get("Authorization", "")
    return authorization[len(_BEARER) :] if key is None and authorization.startswith(_BEARER) else key


async def authenticate(api: Api, request: web.Request) -> Team:
    """The team of the request's key.

    Raises:
        AuthenticationError: the key is missing or not valid.
        TooManyFailuresError: the key is not valid, and the client sent many such keys before.
    """
    key = given_key(request)
    caller = await slow_failures(api, request, api.keys.authenticate(key), counted=bool(key))
    request[CALLER] = caller
    request[TEAM_ID] = caller.team.team_id
    _note(api, request, caller.key)
    return caller.team


async def check_scope(api: Api, request: web.Request, scope: KeyScope) -> None:
    """Check an operator's key, of ``GET /metrics`` or of the routes below ``/admin``.

    Raises:
        AuthenticationError, TooManyFailuresError: as :func:`authenticate`.
        PermissionDeniedError: it is a key of another scope.
    """
    key = given_key(request)
    if scope is KeyScope.ADMIN:
        key = request.headers.get("X-Admin-Token", key)
    _note(api, request, await slow_failures(api, request, api.keys.check_scope(key, scope), counted=bool(key)))


def _note(api: Api, request: web.Request, key: ApiKey) -> None:
    """For the request's log line: an operator finds by it who uses a key."""
    request[KEY_ID], request[PEER] = key.key_id, api.peers.address(request)


async def slow_failures(api: Api, request: web.Request, check: Awaitable[_T], *, counted: bool = True) -> _T:
    """Await ``check``; delays its AuthenticationError for a client that fails often. Raises: as ``check``, TooManyFailuresError."""
    try:
        return await check
    except AuthenticationError:
        if counted:
            await api.failures.note(request)
        raise
