"""The REST application: authentication before each handler, errors rendered after it, and one log line for each request.

Pages in browsers may use the API from any origin, with a key.

Owns the form of every answer that is not a sandbox's. Invariant: the body of every error has the published JSON form.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from cloister.api import audit, builds, identity, nodes
from cloister.api.auth import authenticate, check_scope, slow_failures
from cloister.api.console import ConsoleRoutes
from cloister.api.errors import error_response, render_error
from cloister.api.handlers import KEY_ID, NO_RETRY, PEER, REQUEST_ID, SANDBOX_ID, TEAM_ID, Api
from cloister.api.metrics.counts import Meters, RequestCounts
from cloister.api.metrics.scrape import METRICS_PATH, Scraper
from cloister.api.routes import ADMIN_ROUTES, HINTS, NOT_BUILT, ROUTES, AdminHandler, Handler
from cloister.api.traces import RequestTraces
from cloister.api.volume_content import CONTENT_PATH, VolumeContent
from cloister.errors import CloisterError, InvalidRequestError
from cloister.model.team import KeyScope, Team
from cloister.protocol.cors import ANY_ORIGIN, is_preflight, preflight_headers

__all__ = ["IsReady", "add_routes", "rest_middleware"]

_log = structlog.get_logger("cloister.api")
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REFUSALS = (429, 503, 507)
_SHOWN = 256
"""Characters of a path in a log line or an error: a client may send 64 KiB."""
_ANY_ORIGIN = {**ANY_ORIGIN, "Access-Control-Expose-Headers": "X-Next-Token, X-Total-Running, X-Request-Id, Retry-After, Should-Retry"}
_UNKEPT = re.compile(r"/(?:v2/)?(?:secrets|volumes|volumecontent|api-keys|access-tokens|admin|teams|sandboxes|audit|nodes|cluster)(?:/|\Z)")
"""Paths whose answers no cache may keep: they have keys of teams, tokens of sandboxes, or records."""
_CREATIONS = {"/sandboxes": "POST", "/v2/sandboxes": "POST"}
"""Requests about no sandbox that another api process may have changed."""
IsReady = Callable[[], bool]


def add_routes(app: web.Application, api: Api, meters: Meters, content: VolumeContent, is_ready: IsReady) -> None:
    """Add the routes to ``app``. ``GET /health`` answers 200 if ``is_ready`` is true, else 503."""
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, _authenticated(api, audit.recorded(method, path, handler)))
    for method, path, what in NOT_BUILT:
        app.router.add_route(method, path, _authenticated(api, _refusing(what)))

    async def upload(request: web.Request) -> web.Response:
        return await slow_failures(api, request, builds.upload(api, request))

    app.router.add_put(builds.UPLOAD_PATH, upload)
    app.router.add_route("*", CONTENT_PATH, partial(content.handle, api))

    app.router.add_get(METRICS_PATH, Scraper(api, meters).answer)
    app.router.add_get(audit.AUDIT_PATH, partial(audit.list_records, api))

    for method, path, admin_handler in ADMIN_ROUTES:
        app.router.add_route(method, path, _of_operator(api, audit.recorded_of_operator(method, path, admin_handler)))

    app.router.add_post(nodes.JOIN_PATH, partial(nodes.join, api))
    ConsoleRoutes(api).add(app)

    for path, document in ((identity.CONFIGURATION_PATH, identity.configuration), (identity.KEYS_PATH, identity.keys)):
        app.router.add_get(path, partial(document, api))

    async def health(_request: web.Request) -> web.Response:
        if is_ready():
            return web.Response(text="OK\n")
        return error_response(503, "the node supervisor does not answer", {"Retry-After": "1"})

    app.router.add_get("/health", health)


def _authenticated(api: Api, handler: Handler) -> _Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        team = await authenticate(api, request)
        if "/sandboxes" in request.path and _CREATIONS.get(request.path) != request.method:
            await api.sandboxes.catch_up()
        return await handler(api, request, team)

    return handle


def _of_operator(api: Api, handler: AdminHandler) -> _Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        await check_scope(api, request, KeyScope.ADMIN)
        return await handler(api, request)

    return handle


def _refusing(what: str) -> Handler:
    async def refuse(_api: Api, _request: web.Request, _team: Team) -> web.Response:
        raise InvalidRequestError(f"{what} is not supported by this server", hint=HINTS.get(what))

    return refuse


def rest_middleware(counts: RequestCounts, traces: RequestTraces | None = None) -> Middleware:
    """The middleware of the API."""

    @web.middleware
    async def rest(request: web.Request, handler: _Next) -> web.StreamResponse:
        return await _answer(request, handler, counts, traces)

    return rest


async def _answer(request: web.Request, handler: _Next, counts: RequestCounts, traces: RequestTraces | None) -> web.StreamResponse:
    """Render errors, count the request and log it."""
    began = time.perf_counter()
    request[REQUEST_ID] = request_id = secrets.token_hex(8)
    status = 0
    try:
        if is_preflight(request.method, request.headers):
            response: web.StreamResponse = web.Response(status=204, headers=preflight_headers(request.headers))
        else:
            response = await _render(request, handler, request_id, counts)
        response.headers["X-Request-Id"] = request_id
        if NO_RETRY in request:
            response.headers["Should-Retry"] = "false"
        if _UNKEPT.match(request.path):
            response.headers["Cache-Control"] = "no-store"
        if "Origin" in request.headers:
            response.headers.update(_ANY_ORIGIN)
        status = response.status
        return response
    finally:
        seconds = time.perf_counter() - began
        counts.completed(request, status, seconds)
        if traces is not None:
            traces.completed(request, status, seconds)
        _log.info(
            "request.completed",
            request_id=request_id,
            method=request.method,
            path=request.path[:_SHOWN],
            status=status,
            duration_ms=round(seconds * 1000, 2),
            team_id=request.get(TEAM_ID),
            key_id=request.get(KEY_ID),
            peer=request.get(PEER),
            sandbox_id=request.get(SANDBOX_ID) or request.match_info.get("sandbox_id"),
        )


async def _render(request: web.Request, handler: _Next, request_id: str, counts: RequestCounts) -> web.StreamResponse:
    try:
        return await handler(request)
    except CloisterError as error:
        response = render_error(error)
        if response.status in _REFUSALS:
            counts.refusals[error.code] += 1
        if response.status == 500:
            _log.exception("request.failed", request_id=request_id)
        return response
    except web.HTTPMethodNotAllowed as error:
        allowed = {"Allow": ", ".join(sorted(error.allowed_methods))}
        return error_response(405, f"{request.method} is not a method of {request.path[:_SHOWN]}", allowed)
    except web.HTTPNotFound:
        return error_response(404, f"there is nothing at {request.path[:_SHOWN]}")
    except web.HTTPException as error:
        return error_response(error.status, error.text or error.reason)
    except Exception:  # noqa: BLE001 - process border: an internal error gets the published form, and its traceback is logged
        _log.exception("request.failed", request_id=request_id)
        return error_response(500, f"internal error; the server's log has it as {request_id}", {"Should-Retry": "false"})
