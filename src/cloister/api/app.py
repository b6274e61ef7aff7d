"""The REST application: routes with authentication before them and errors rendered after them, one canonical log line each.

Owns the shape of every answer that is not a sandbox's. Invariant: whatever happens, the body of an error is the published JSON shape.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from cloister.api import builds
from cloister.api.auth import authenticate
from cloister.api.errors import error_response, render_error
from cloister.api.handlers import SANDBOX_ID, TEAM_ID, Api
from cloister.api.routes import NOT_BUILT, ROUTES, Handler
from cloister.errors import CloisterError, InvalidRequestError
from cloister.store.base import Team

__all__ = ["IsReady", "add_routes", "rest_middleware"]

_log = structlog.get_logger("cloister.api")
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
IsReady = Callable[[], bool]


def add_routes(app: web.Application, api: Api, is_ready: IsReady) -> None:
    """Give ``app`` the routes; ``is_ready`` says whether ``GET /health`` answers 200 or 503."""
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, _authenticated(api, handler))
    for method, path, what in NOT_BUILT:
        app.router.add_route(method, path, _authenticated(api, _refusing(what)))

    async def upload(request: web.Request) -> web.Response:
        return await builds.upload(api.uploads, request)

    app.router.add_put(builds.UPLOAD_PATH, upload)

    async def health(_request: web.Request) -> web.Response:
        if is_ready():
            return web.Response(text="OK\n")
        return error_response(503, "the node supervisor does not answer", {"Retry-After": "1"})

    app.router.add_get("/health", health)


def _authenticated(api: Api, handler: Handler) -> _Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        team = await authenticate(request, api.keys)
        return await handler(api, request, team)

    return handle


def _refusing(what: str) -> Handler:
    async def refuse(_api: Api, _request: web.Request, _team: Team) -> web.Response:
        raise InvalidRequestError(f"{what} is not supported by this server")

    return refuse


@web.middleware
async def rest_middleware(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Render errors and log the request."""
    began = time.perf_counter()
    request_id = secrets.token_hex(8)
    status = 0
    try:
        response = await _render(request, handler, request_id)
        response.headers["X-Request-Id"] = request_id
        status = response.status
        return response
    finally:
        _log.info(
            "request.completed",
            request_id=request_id,
            method=request.method,
            path=request.path,
            status=status,
            duration_ms=round((time.perf_counter() - began) * 1000, 2),
            team_id=request.get(TEAM_ID),
            sandbox_id=request.get(SANDBOX_ID) or request.match_info.get("sandbox_id"),
        )


async def _render(request: web.Request, handler: _Next, request_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except CloisterError as error:
        response = render_error(error)
        if response.status == 500:
            _log.exception("request.failed", request_id=request_id)
        return response
    except web.HTTPMethodNotAllowed as error:
        allowed = {"Allow": ", ".join(sorted(error.allowed_methods))}
        return error_response(405, f"{request.method} is not a method of {request.path}", allowed)
    except web.HTTPNotFound:
        return error_response(404, f"there is nothing at {request.path}")
    except web.HTTPException as error:
        return error_response(error.status, error.text or error.reason)
    except Exception:  # noqa: BLE001 - process border: a fault of ours becomes the published shape, and its traceback reaches the log
        _log.exception("request.failed", request_id=request_id)
        return error_response(500, f"internal error; the server's log has it as {request_id}", {"Should-Retry": "false"})
