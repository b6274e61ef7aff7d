"""Serves the console: its page, its files, and the session that a browser gets for an API key.

The console has no API of its own beside that session: its pages call the public routes, and show the session where other clients show a
key (``api/cookies.py``). Invariants: the key is in one request of the browser and never in an answer; the page runs no script but its own,
asks no other host, and is shown in no other page.
"""

from __future__ import annotations

import base64
import gzip
import mimetypes
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

from cloister import __version__
from cloister.api.audit import recorded_of_operator
from cloister.api.auth import note_key, slow_failures
from cloister.api.bodies import read_json
from cloister.api.cookies import TOKEN_HEADER, check_origin, cookie_name, is_by_tls, session_id_of, session_of
from cloister.api.fields import Fields
from cloister.api.handlers import Api, json_answer
from cloister.control.sessions import LIFETIME_S, Session
from cloister.errors import AuthenticationError
from cloister.model.team import ApiKey, Team

__all__ = ["CONSOLE_PATH", "SESSION_PATH", "ConsoleRoutes"]

CONSOLE_PATH = "/console"
SESSION_PATH = "/console/session"
_DIRECTORY = Path(__file__).parents[1] / "console"
_FILES = {path.name: path.read_bytes() for path in sorted(_DIRECTORY.iterdir()) if path.suffix in {".js", ".css", ".html", ".svg", ".txt"}}
"""Read when the code is imported, because the api process may be unable to read it later."""
_PAGE = "index.html"
_NONCE = b"{{nonce}}"
_RULES = (
    "default-src 'none'",
    "script-src 'nonce-{nonce}' 'strict-dynamic'",
    "style-src 'self' 'nonce-{nonce}'",
    "connect-src 'self'",
    "img-src 'self' data: blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types cloister-frame",
)
_POLICY = "; ".join(_RULES)
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"
"""The names of files hold a digest of their content."""


class ConsoleRoutes:
    """The routes of the console."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def add(self, app: web.Application) -> None:
        """Add the routes to ``app``."""
        app.router.add_get(CONSOLE_PATH, self.page)
        app.router.add_get(f"{CONSOLE_PATH}/", self.page)
        app.router.add_get(f"{CONSOLE_PATH}/assets/{{name}}", self.file)
        app.router.add_post(SESSION_PATH, self.log_in)
        app.router.add_get(SESSION_PATH, self.look)
        app.router.add_delete(SESSION_PATH, self.log_out)

    async def page(self, _request: web.Request) -> web.Response:
        """``GET /console``."""
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        headers = {**_SAFE, "Cache-Control": "no-store", "Content-Security-Policy": _POLICY.format(nonce=nonce), "X-Frame-Options": "DENY"}
        body = _FILES[_PAGE].replace(_NONCE, nonce.encode())
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)

    async def file(self, request: web.Request) -> web.Response:
        """``GET /console/assets/{name}``."""
        name = request.match_info["name"]
        if name not in _FILES or name == _PAGE:
            raise web.HTTPNotFound
        headers = {**_SAFE, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        body = _FILES[name]
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = _packed(name), "gzip"
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return web.Response(body=body, content_type=kind or "text/plain", charset="utf-8", headers=headers)

    async def log_in(self, request: web.Request) -> web.Response:
        """``POST /console/session``: a session for the key in the body. Raises: AuthenticationError, TooManyFailuresError, others."""
        check_origin(request)
        fields = Fields(await read_json(self._api, request), is_strict=True)
        secret = fields.take("key", str)
        fields.end()
        hashed, key, team = await slow_failures(self._api, request, self._api.keys.identify(secret.strip()))
        note_key(self._api, request, key, team)

        async def begin(api: Api, request: web.Request) -> web.Response:
            if (earlier := session_id_of(request)) is not None:
                api.sessions.end(earlier)
            session_id, session = api.sessions.open(hashed, "" if team is None else team.team_id)
            answer = json_answer(self._render(session, key, team), status=201, headers={"Cache-Control": "no-store", **_SAFE})
            name, by_tls = cookie_name(request), is_by_tls(request)
            answer.set_cookie(name, session_id, max_age=int(LIFETIME_S), path="/", secure=by_tls, httponly=True, samesite="Strict")
            return answer

        return await recorded_of_operator("POST", SESSION_PATH, begin)(self._api, request)

    async def look(self, request: web.Request) -> web.Response:
        """``GET /console/session``: the session of the cookie, with the token that other requests show."""
        check_origin(request)
        session = session_of(self._api.sessions, request)
        try:
            _, key, team = await self._api.keys.identify(session.key)
        except AuthenticationError:
            self._api.sessions.end(session_id_of(request) or "")
            raise
        return json_answer(self._render(session, key, team), headers={"Cache-Control": "no-store", **_SAFE})

    async def log_out(self, request: web.Request) -> web.Response:
        """``DELETE /console/session``: ends the session. It needs no token: a page of another site cannot send it."""
        check_origin(request)
        self._api.sessions.end(session_id_of(request) or "")
        answer = web.Response(status=204, headers={"Cache-Control": "no-store"})
        answer.del_cookie(cookie_name(request), path="/", secure=is_by_tls(request))  # else a cookie with the prefix stays
        return answer

    def _render(self, session: Session, key: ApiKey, team: Team | None) -> dict[str, Any]:
        return {
            "token": session.token,
            "tokenHeader": TOKEN_HEADER,
            "scope": key.scope.value,
            "keyID": key.key_id,
            "keyName": key.name,
            "team": None if team is None else {"teamID": team.team_id, "name": team.name},
            "domain": self._api.domain,
            "version": __version__,
        }


@lru_cache(maxsize=64)
def _packed(name: str) -> bytes:
    return gzip.compress(_FILES[name], 9, mtime=0)
