"""The envd-compatible API of port 49983: health, metrics, variables and init. Puts the services and the file transfer together.

Contract: ``X-Access-Token`` on everything except /health, and on /files unless it is signed; errors are JSON ``{"code", "message"}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.agent.auth import is_allowed
from cloister.agent.clock import expect_pause
from cloister.agent.cors import add_headers, answer_preflights
from cloister.agent.events import EventLog
from cloister.agent.filesystem.service import FilesystemService
from cloister.agent.filesystem.users import Workers
from cloister.agent.filesystem.watch import Watches
from cloister.agent.identity import become_copy
from cloister.agent.interpreter.contexts import Contexts
from cloister.agent.metrics import Metrics
from cloister.agent.process.service import ProcessService
from cloister.agent.reports import report_events
from cloister.agent.rpc import RpcRouter
from cloister.agent.state import AgentState
from cloister.agent.transfer.app import FilesApi
from cloister.agent.trust import follow_authority
from cloister.errors import CloisterError, InvalidRequestError
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.init_document import InitUpdate
from cloister.protocol.kernels_ahead import KernelOrder
from cloister.protocol.pausing import Standstill

__all__ = ["EVENTS", "PROCESSES", "control_app"]

EVENTS: web.AppKey[EventLog] = web.AppKey("events", EventLog)
"""The events of the sandbox's log."""
PROCESSES: web.AppKey[ProcessService] = web.AppKey("processes", ProcessService)
_MAX_BODY_BYTES = 4 << 20
_AFTERWARDS = {
    Standstill.MEMORY: "the process goes on when it is resumed; connect to it again then",
    Standstill.FILES: "without its memory, so the process ends; only its files are kept",
}
_RELEASED_WITHIN_S = {Standstill.MEMORY: 0.2, Standstill.FILES: 2.0}
"""Shorter than the server waits (agentclient/pausing.py)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def control_app(state: AgentState, metrics: Metrics, events: EventLog | None = None, contexts: Contexts | None = None) -> web.Application:
    """The application. ``events`` is a list that other parts of the agent record in, too; ``contexts`` are those of the interpreter."""
    api = _Api(state, metrics, contexts)
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[answer_preflights, api.check])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/health", api.health)
    app.router.add_get("/metrics", api.metrics)
    app.router.add_get("/envs", api.envs)
    app.router.add_post("/init", api.init)
    app[EVENTS] = events if events is not None else EventLog()
    app.router.add_get("/logs", api.logs)
    app.router.add_post("/pausing", api.pausing)
    app.router.add_post("/resumed", api.resumed)
    app.router.add_post("/kernels", api.kernels)
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
    def __init__(self, state: AgentState, metrics: Metrics, contexts: Contexts | None) -> None:
        self._state = state
        self._contexts = contexts
        self._metrics = metrics

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token, call the route, and turn every error into JSON. Routes of /files check themselves: they take signatures."""
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
        """Internal (the ingress answers 404 for it): new variables, a new token, a new authority. Absent fields change nothing."""
        update = InitUpdate.from_json(await request.read())
        self._state.update(update)
        if update.ca_bundle is not None and not follow_authority(update.ca_bundle, request.app[EVENTS]):
            return _error(400, "the sandbox's authority could not be added everywhere; the sandbox's log says why")
        return web.Response(status=204)

    async def pausing(self, request: web.Request) -> web.Response:
        """Internal: the sandbox is about to stand still. At a pause streams end, and what they served goes on after the resume."""
        kind = Standstill.from_json(await request.read())
        if kind in (Standstill.MEMORY, Standstill.FILES):
            expect_pause()
            name = f"sandbox {self._state.document.sandbox_id}"
            await request.app[PROCESSES].release_readers(f"{name} is being paused: {_AFTERWARDS[kind]}", _RELEASED_WITHIN_S[kind])
        if self._contexts is not None:
            if kind is Standstill.COPY:
                self._contexts.expect_copies()
            elif kind is Standstill.OVER:
                self._contexts.settle(is_copy=False)
            else:
                self._contexts.detach_runs()
        return web.Response(status=204)

    async def resumed(self, request: web.Request) -> web.Response:
        """Internal: the sandbox is a copy of another one, with an identity of its own."""
        become_copy(CopiedSandbox.from_json(await request.read()), self._state, request.app[EVENTS], self._contexts)
        return web.Response(status=204)

    async def kernels(self, request: web.Request) -> web.Response:
        """Internal: start kernels of these languages now, for contexts that are made later. Answers when they are ready."""
        order = KernelOrder.from_json(await request.read())
        try:
            if self._contexts is not None:
                await self._contexts.start_ahead(order.languages)
        except CloisterError as error:
            return _error(500, str(error))
        return web.Response(status=204)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"code": status, "message": message}, status=status)
