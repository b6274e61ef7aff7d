"""The code-interpreter API of port 49999: HTTP to contexts and runs. It parses, calls and renders; it makes no rules.

A client that disconnects while its code runs cancels the handler, which interrupts the code. A pause of the sandbox ends the client's
stream, and the code goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.agent.auth import is_allowed, is_allowed_or_absent
from cloister.agent.cors import add_headers, answer_preflights
from cloister.agent.events import EventLog
from cloister.agent.interpreter.contexts import Context, Contexts, Run
from cloister.agent.interpreter.kernel import Finished
from cloister.agent.interpreter.results import encode_events
from cloister.agent.reports import report_events
from cloister.agent.state import AgentState
from cloister.errors import AuthenticationError, CloisterError, InvalidRequestError, NotFoundError
from cloister.protocol import execution

__all__ = ["interpreter_app"]

_MAX_BODY_BYTES = 64 << 20
_STATUS = {InvalidRequestError: 400, AuthenticationError: 401, NotFoundError: 404}
_KEEPALIVE = execution.encode_event(execution.keepalive_event())

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def interpreter_app(state: AgentState, contexts: Contexts, keepalive_s: float = 5.0, events: EventLog | None = None) -> web.Application:
    """The application; its server must set ``handler_cancellation``."""
    api = _Api(state, contexts, keepalive_s, events if events is not None else EventLog())
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[answer_preflights, _errors_as_text])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/health", api.health)
    app.router.add_post("/execute", api.execute)
    app.router.add_get("/logs", api.logs)
    app.router.add_get("/contexts", api.list_contexts)
    app.router.add_post("/contexts", api.create_context)
    app.router.add_post("/contexts/{id}/restart", api.restart_context)
    app.router.add_delete("/contexts/{id}", api.delete_context)
    return app


class _Api:
    def __init__(self, state: AgentState, contexts: Contexts, keepalive_s: float, events: EventLog) -> None:
        self._events = events
        self._keepalive_s = keepalive_s
        self._state = state
        self._contexts = contexts

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def logs(self, request: web.Request) -> web.Response:
        self._demand_token(request)
        return report_events(self._events, request)

    async def execute(self, request: web.Request) -> web.StreamResponse:
        self._demand_token(request)
        run = self._contexts.submit(execution.parse_execute_request(await request.read()))
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
            await response.prepare(request)
            if not await _is_streamed(run, response, self._keepalive_s) and request.transport is not None:
                request.transport.close()  # without the end of the stream, so that the client cannot take this for the end of the run
        finally:
            run.abandon()
        return response

    async def list_contexts(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response([_render(context) for context in self._contexts.list()])

    async def create_context(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response(_render(self._contexts.create(execution.parse_context_request(await request.read()))))

    async def restart_context(self, request: web.Request) -> web.Response:
        self._check(request)
        await self._contexts.get(request.match_info["id"]).restart()
        return web.Response(text="")

    async def delete_context(self, request: web.Request) -> web.Response:
        self._check(request)
        await self._contexts.delete(request.match_info["id"])
        return web.Response(text="")

    def _demand_token(self, request: web.Request) -> None:
        if not is_allowed(self._state.access_token, request.headers.get("X-Access-Token")):
            raise AuthenticationError("The access token (header X-Access-Token) is missing or wrong")

    def _check(self, request: web.Request) -> None:
        """Official clients send no token here, so a missing one is accepted."""
        if not is_allowed_or_absent(self._state.access_token, request.headers.get("X-Access-Token")):
            raise AuthenticationError("The access token (header X-Access-Token) is wrong")


async def _is_streamed(run: Run, response: web.StreamResponse, keepalive_s: float) -> bool:
    """Stream the run to its end. False: it was detached before."""
    try:
        async with asyncio.timeout(None) as scope:
            loop = asyncio.get_running_loop()
            run.on_detach = lambda: scope.reschedule(loop.time())
            await _stream(run, response, keepalive_s)
    except TimeoutError:
        if not scope.expired():
            raise
        return False
    return True


async def _stream(run: Run, response: web.StreamResponse, keepalive_s: float) -> None:
    """Write the run's events as they come, a keepalive when there were none for a while, and the end."""
    while True:
        try:
            async with asyncio.timeout(keepalive_s):
                events = await run.next_events()
        except TimeoutError:
            await response.write(_KEEPALIVE)
            continue
        lines = encode_events(events)
        if isinstance(events[-1], Finished):
            await response.write_eof(lines)
            return
        await response.write(lines)


def _render(context: Context) -> dict[str, str]:
    return {"id": context.context_id, "language": context.language.name, "cwd": context.cwd}


@web.middleware
async def _errors_as_text(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors are plain text here, since official clients show the body."""
    try:
        return await handler(request)
    except CloisterError as error:
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        return _text(status, str(error))
    except web.HTTPNotFound:
        return _text(404, f"{request.method} {request.path} does not exist")


def _text(status: int, text: str) -> web.Response:
    """The text, escaped where UTF-8 cannot encode it: quoted parts of a request may hold lone surrogates."""
    return web.Response(status=status, body=text.encode(errors="backslashreplace"), content_type="text/plain", charset="utf-8")
