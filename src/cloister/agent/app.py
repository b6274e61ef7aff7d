"""The envd-compatible API of port 49983: health, metrics, envs and init; the services and file transfer are put together here.

Contract: `X-Access-Token` on everything but /health, and /files with a signature; errors are JSON ``{"code", "message"}``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cloister.agent.auth import is_allowed
from cloister.agent.cors import add_headers, answer_preflights
from cloister.agent.events import EventLog
from cloister.agent.files.app import FilesApi
from cloister.agent.filesystem.service import FilesystemService
from cloister.agent.filesystem.users import Workers
from cloister.agent.filesystem.watch import Watches
from cloister.agent.init import SandboxState
from cloister.agent.metrics import Metrics
from cloister.agent.process.service import ProcessService
from cloister.agent.reports import report_events
from cloister.agent.rpc import RpcRouter
from cloister.errors import InvalidRequestError
from cloister.protocol.execution import parse_envs

__all__ = ["EVENTS", "PROCESSES", "control_app"]

EVENTS: web.AppKey[EventLog] = web.AppKey("events", EventLog)
"""What happened in the sandbox, for its structured log."""
PROCESSES: web.AppKey[ProcessService] = web.AppKey("processes", ProcessService)
_MAX_BODY_BYTES = 4 << 20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def control_app(state: SandboxState, metrics: Metrics, events: EventLog | None = None) -> web.Application:
    """The application; ``events`` is what others record in too."""
    api = _Api(state, metrics)
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[answer_preflights, api.check])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/health", api.health)
    app.router.add_get("/metrics", api.metrics)
    app.router.add_get("/envs", api.envs)
    app.router.add_post("/init", api.init)
    app[EVENTS] = events if events is not None else EventLog()
    app.router.add_get("/logs", api.logs)
    rpc = RpcRouter()
    app[PROCESSES] = ProcessService(state, app[EVENTS], metrics.oom_kills)
    app[PROCESSES].register(rpc)
    workers = Workers()
    FilesystemService(state, workers, Watches()).register(rpc)
    app.on_cleanup.append(workers.end)
    app.router.add_routes(FilesApi(state, workers).routes())
    app.router.add_routes(rpc.routes())
    return app


class _Api:
    def __init__(self, state: SandboxState, metrics: Metrics) -> None:
        self._state = state
        self._metrics = metrics

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Token first, then the route; every fault as JSON. The routes of /files also take signatures, so they check for themselves."""
        if request.path not in ("/health", "/files") and not is_allowed(self._state.access_token, request.headers.get("X-Access-Token")):
            return _error(401, "The access token (header X-Access-Token) is missing or wrong")
        try:
            return await handler(request)
        except InvalidRequestError as error:
            return _error(400, str(error))
        except web.HTTPException as error:
            return _error(error.status, f"{request.method} {request.path}: {error.reason}")

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.json_response(self._metrics.read())

    async def logs(self, request: web.Request) -> web.Response:
        return report_events(request.app[EVENTS], request)

    async def envs(self, _request: web.Request) -> web.Response:
        return web.json_response(self._state.envs)

    async def init(self, request: web.Request) -> web.Response:
        """Internal (the ingress answers 404 for it): new variables and a new token. Fields that are absent change nothing."""
        data = _object(await request.read())
        envs = parse_envs(data.get("envVars"), "envVars")
        token = data.get("accessToken")
        if token is not None and not isinstance(token, str):
            raise InvalidRequestError("'accessToken' must be a string")
        self._state.envs.update(envs)
        if token:
            self._state.access_token = token
        return web.Response(status=204)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidRequestError("The body must be a JSON object")
    return data


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message}, status=status)
