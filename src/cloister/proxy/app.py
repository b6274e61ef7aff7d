"""The ingress: a middleware that checks requests for sandboxes and forwards them.

Owns the checks of the data plane (I5) and the responses when a sandbox cannot respond. Invariants: a request reaches a sandbox only if the
sandbox runs now and the request has the required tokens; it wakes a paused one only if it also has the token of the agent's port. A request
without these tokens cannot tell a paused sandbox that traffic does not wake from an unknown one.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import aiohttp
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from cloister.errors import (
    CloisterError,
    ConflictError,
    SandboxNotFoundError,
    TooManyFailuresError,
    UnavailableError,
)
from cloister.protocol.agent import AGENT_PORT, AGENT_PORTS, INTERPRETER_PORT
from cloister.proxy import answers
from cloister.proxy.address import RUN_PATH, Address, AddressError, api_host, find_address
from cloister.proxy.forward import ANSWERED_AT, STARTED, UNADDRESSED, Forwarder, StalledError, abort
from cloister.proxy.routes import Asleep, Dialer, FarDialer, Gone, Route, Routes, Waker
from cloister.proxy.signed import MAX_QUERY_BYTES, SIGNED_PATH, SignedRequest, find_holder, find_signer, shown_token, signed_request
from cloister.proxy.traces import TRACED, trace_request
from cloister.proxy.upstream import ActiveRequest, ActiveRequests, NoTlsError, PortClosedError, SandboxConnector, SandboxEndedError
from cloister.proxy.waking import WAKE_WAIT_S, Wakes
from cloister.telemetry.tracing import Tracer

__all__ = ["AGENT_PORT", "INTERPRETER_PORT", "Ingress", "TrafficMeter"]

_log = structlog.get_logger("cloister.proxy")
_INTERNAL_PATHS = {
    AGENT_PORT: frozenset(
        {"/init", "/kernels", "/pausing", "/resumed", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/logs"}
    ),
    INTERPRETER_PORT: frozenset({"/logs"}),
}
"""Paths that the agent serves to the server only."""
_TRAFFIC_TOKEN, _ACCESS_TOKEN = _TOKEN_HEADERS = ("E2b-Traffic-Access-Token", "X-Access-Token")
_WRONG_TOKEN = "the X-Access-Token header is wrong"  # noqa: S105 - a message, not a token
_NO_TOKEN = "the X-Access-Token header is missing; code interpreter SDKs before 2.0 do not send it: update, or do not use secure"  # noqa: S105 - a message
_LOOK_AGAIN_S = 0.01
_LAST_OUTPUT_S = 0.1
"""How long requests to a paused sandbox go on. Its programs stand still, so this only has to empty buffers."""
_UNKNOWN = "is not known to this server, or is paused and the request does not have its token"
"""The same for both, so that a client without tokens cannot tell them apart."""
_INTERRUPTED = "was paused during this request; the next one wakes it"
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TrafficMeter(Protocol):
    """Counts requests to sandboxes."""

    def completed(self, port: int, status: int) -> None:
        """A request to this port of a sandbox was answered; the status is 0 if it was interrupted."""
        ...

    def answered(self, seconds: float) -> None:
        """The first output of a run, or its end, came so long after its request."""
        ...


class Ingress:
    """The data plane of one server."""

    def __init__(
        self, routes: Routes, dialer: Dialer | FarDialer, *, domain: str, stall_s: float, meter: TrafficMeter, tracer: Tracer | None = None
    ) -> None:
        self._routes = routes
        self._meter = meter
        self._tracer = tracer
        self._api_host = api_host(domain)
        self.connector = SandboxConnector(dialer)
        """The connections into sandboxes; :meth:`close` closes it."""
        self._forwarder = Forwarder(self.connector, stall_s=stall_s)
        self.on_agent_used: Callable[[str, int], None] = lambda _sandbox_id, _port: None
        """Called before and after each request that reaches one of the agent's ports."""
        self.note_failure: Callable[[web.BaseRequest], Awaitable[None]] = _note_nothing
        """Called after a request with a wrong token or signature. It may wait, and raise TooManyFailuresError."""
        self._active = ActiveRequests()
        self._wakes = Wakes()

    def set_waker(self, waker: Waker) -> None:
        """Wake paused sandboxes by ``waker``. Without one, every request to a paused sandbox is refused."""
        self._wakes.waker = waker

    async def close(self) -> None:
        """Stop waiting for sandboxes that wake, and close the connections into sandboxes."""
        await self._wakes.close()
        await self._forwarder.close()

    def end(self, sandbox_id: str) -> None:
        """Abort the requests of a sandbox that ended, and close its idle connections.

        Those of a paused one get its last output first: what its programs sent before the pause is in the connections' buffers.
        """
        self.connector.drop(sandbox_id)
        if isinstance(self._routes.find(sandbox_id), Asleep):
            asyncio.get_running_loop().call_later(_LAST_OUTPUT_S, self._end_paused, sandbox_id, self._active.of(sandbox_id))
        else:
            self._active.abort(sandbox_id)

    def _end_paused(self, sandbox_id: str, requests: frozenset[ActiveRequest]) -> None:
        """Abort requests that were under way at a pause, unless the sandbox runs again: then their connections go on."""
        if not isinstance(self._routes.find(sandbox_id), Route):
            self._active.abort(sandbox_id, requests)

    def middleware(self) -> Middleware:
        """The middleware, which must be the outermost."""

        @web.middleware
        async def ingress(request: web.Request, handler: _Next) -> web.StreamResponse:
            try:
                address = find_address(request.headers, request.path, self._api_host)
            except AddressError as error:
                return answers.malformed(request, str(error))
            if address is not None:
                return await self._handle(request, address)
            if (signed := _signed(request)) is not None:
                await self._catch_up()
                signer = find_signer(signed, self._routes.access_tokens())
                refusal = answers.refused(request, 401, "invalid signature: no running sandbox has signed this URL")
                return await self._handle_found(request, signer, refusal)
            if token := shown_token(request.path, request.headers):
                await self._catch_up()
                holder = find_holder(token, self._routes.access_tokens())
                return await self._handle_found(request, holder, answers.absent(request, "", "is not one whose token was shown"))
            return await handler(request)

        return ingress

    async def _handle_found(self, request: web.Request, sandbox_id: str | None, refusal: web.Response) -> web.StreamResponse:
        """Handle a request without an address. Its credential identified the sandbox; if it identified none, answer ``refusal``."""
        request[UNADDRESSED] = True
        return await (self._slowed(request, refusal) if sandbox_id is None else self._handle(request, Address(sandbox_id, AGENT_PORT)))

    async def _handle(self, request: web.Request, address: Address) -> web.StreamResponse:
        began = time.perf_counter()
        status = 0
        try:
            response = await self._answer(request, address)
            status = response.status
            return response
        finally:
            self._meter.completed(address.port, status)
            if address.port == INTERPRETER_PORT and status == 200 and request.path == RUN_PATH and ANSWERED_AT in request:
                self._meter.answered(request[ANSWERED_AT] - began)
            if TRACED in request:
                request[TRACED].end(request, status)
            _log.info(
                "traffic.completed",
                sandbox_id=address.sandbox_id,
                port=address.port,
                method=request.method,
                status=status,
                duration_ms=round((time.perf_counter() - began) * 1000, 2),
            )

    async def _answer(self, request: web.Request, address: Address) -> web.StreamResponse:
        for may_wait in (True, False):
            found = self._routes.find(address.sandbox_id)
            if not isinstance(found, Route):
                if (fault := await self._catch_up()) is not None and found is None:
                    return answers.unavailable(request, address.sandbox_id, f"is not known while the store is away: {fault}")
                found = self._routes.find(address.sandbox_id)
            if isinstance(found, Asleep):
                if (refusal := await self._wake(request, address, found)) is not None:
                    return refusal
                found = self._routes.find(address.sandbox_id)
            if not isinstance(found, Route):
                return self._absent(request, address, found)
            if (refusal := check_request(request, address, found)) is not None:
                return await self._refused(request, refusal)
            self._trace(request, address, found)
            response = await self._pass_on(request, address, found, may_wait=may_wait)
            if response is not None:
                break
        assert response is not None, "the last attempt answers"
        return response

    async def _catch_up(self) -> CloisterError | None:
        """Bring the routes up to date; returns the reason if that fails, and they go on as they were."""
        try:
            await self._routes.catch_up()
        except CloisterError as error:
            return error
        return None

    def _trace(self, request: web.Request, address: Address, route: Route) -> None:
        """Record a request to the agent from now on, if it has the sandbox's token: no other one adds spans to a client's trace."""
        if self._tracer is None or TRACED in request or address.port not in AGENT_PORTS:
            return
        if _matches(request, _ACCESS_TOKEN, route.access_token):
            trace_request(self._tracer, request, address)

    async def _wake(self, request: web.Request, address: Address, asleep: Asleep) -> web.Response | None:
        """Wake the sandbox if it may be woken by this request; the response if it does not run then."""
        if not asleep.wakes:
            return self._absent(request, address, asleep)
        if (refusal := check_waking(request, address, asleep.route)) is not None:
            return await self._refused(request, refusal)
        try:
            await self._wakes.wake(address.sandbox_id)
        except CloisterError as error:
            return answers.not_woken(request, address.sandbox_id, error)
        return None

    async def _pass_on(self, request: web.Request, address: Address, route: Route, *, may_wait: bool) -> web.StreamResponse | None:
        """Forward a checked request. None, only with ``may_wait``: nothing was sent, as the sandbox has just been paused."""
        is_agent = address.port in AGENT_PORTS
        try:
            with self._active.track(address.sandbox_id):
                if is_agent:
                    self.on_agent_used(address.sandbox_id, address.port)
                shown_host = None if address.port == AGENT_PORT else route.host_at(address.port)
                by_tls = address.port in route.https_ports
                traceparent = request[TRACED].span.traceparent if TRACED in request else None
                try:
                    return await self._forwarder.forward(request, address, shown_host, by_tls=by_tls, traceparent=traceparent)
                except ConflictError:
                    if may_wait and await self._is_paused_soon(address.sandbox_id):
                        return None
                    raise
        except (SandboxEndedError, aiohttp.ClientError, CloisterError) as error:
            if request.get(STARTED):
                abort(request, flush=isinstance(error, SandboxEndedError))
                raise ConnectionResetError("the response was interrupted") from error
            return self._explain(request, address, error)
        finally:
            if is_agent:
                self.on_agent_used(address.sandbox_id, address.port)

    async def _is_paused_soon(self, sandbox_id: str) -> bool:
        """Wait until the control plane knows that the node pauses the sandbox; the node's event is on its way."""
        until = time.monotonic() + WAKE_WAIT_S
        while isinstance(self._routes.find(sandbox_id), Route) and time.monotonic() < until:  # noqa: ASYNC110 - a rare race; routes have no events
            await asyncio.sleep(_LOOK_AGAIN_S)
        return time.monotonic() < until

    async def _refused(self, request: web.Request, refusal: web.Response) -> web.Response:
        """Refuse a request by its tokens. One without any is no guess."""
        return await self._slowed(request, refusal) if any(header in request.headers for header in _TOKEN_HEADERS) else refusal

    async def _slowed(self, request: web.Request, refusal: web.Response) -> web.Response:
        """Refuse a wrong credential with ``refusal``, or with 429 after too many."""
        try:
            await self.note_failure(request)
        except TooManyFailuresError as error:
            return answers.slowed(request, str(error))
        return refusal

    def _explain(self, request: web.Request, address: Address, error: Exception) -> web.Response:
        route = self._routes.find(address.sandbox_id)
        if isinstance(error, SandboxEndedError | SandboxNotFoundError) or not isinstance(route, Route):
            return self._absent(request, address, route)
        if isinstance(error, PortClosedError):
            return answers.port_closed(request, address.sandbox_id, address.port)
        if isinstance(error, StalledError):
            return answers.refused(request, 408, str(error))
        if isinstance(error, CloisterError):
            return answers.unavailable(request, address.sandbox_id, _unreachable(address, error))
        return answers.unusable(request, address.sandbox_id, address.port, _describe(error))

    @staticmethod
    def _absent(request: web.Request, address: Address, found: Route | Asleep | Gone | None) -> web.Response:
        """That it does not run, and why, as far as this request may know."""
        why = _UNKNOWN
        if isinstance(found, Gone) or (isinstance(found, Asleep) and _may_know(request, address, found.route)):
            why = _INTERRUPTED if isinstance(found, Asleep) and found.wakes else found.why
        return answers.absent(request, address.sandbox_id, why)


def _signed(request: web.BaseRequest) -> SignedRequest | None:
    if request.path != SIGNED_PATH or len(request.rel_url.raw_query_string) > MAX_QUERY_BYTES:
        return None  # a query of 64 KiB, from an unauthenticated client, takes 30 ms to parse
    return signed_request(request.method, request.path, request.query, request.headers)


async def _note_nothing(_request: web.BaseRequest) -> None:
    """Do nothing."""


def check_request(request: web.BaseRequest, address: Address, route: Route) -> web.Response | None:
    """The response that refuses a request, or None if the request may reach the sandbox."""
    if request.path.rstrip("/").lower() in _INTERNAL_PATHS.get(address.port, ()):
        return answers.refused(request, 404, "there is nothing here: this path is reserved for the E2B control plane")
    if address.port == AGENT_PORT:
        return None
    if not _matches(request, _TRAFFIC_TOKEN, route.traffic_token):
        return answers.no_traffic_token(request, address.sandbox_id, is_wrong=_TRAFFIC_TOKEN in request.headers)
    if address.port != INTERPRETER_PORT or request.path != RUN_PATH or request.method == "OPTIONS":
        return None  # a browser sends OPTIONS first, without tokens; the agent answers it and runs no code
    if not _matches(request, _ACCESS_TOKEN, route.access_token):
        return answers.refused(request, 401, _WRONG_TOKEN if _ACCESS_TOKEN in request.headers else _NO_TOKEN)
    return None


def check_waking(request: web.BaseRequest, address: Address, route: Route) -> web.Response | None:
    """The response that refuses a request to a paused sandbox, or None if the request may wake it.

    The agent checks its token itself, but here it is not asked: it does not run. A signed URL is not enough, as it may be in other hands.
    """
    if (refusal := check_request(request, address, route)) is not None:
        return refusal
    if address.port == AGENT_PORT and not _matches(request, _ACCESS_TOKEN, route.access_token):
        what = "the X-Access-Token header is wrong" if _ACCESS_TOKEN in request.headers else "the X-Access-Token header is missing"
        return answers.refused(request, 403, f"the sandbox is paused, and only a request with its token wakes it: {what}")
    return None


def _may_know(request: web.BaseRequest, address: Address, route: Route) -> bool:
    """Whether the request would reach the sandbox if it ran, by its tokens or its signature."""
    if check_waking(request, address, route) is None:
        return True
    signed = _signed(request) if address.port == AGENT_PORT else None
    return signed is not None and find_signer(signed, [(route.sandbox_id, route.access_token or "")]) is not None


def _matches(request: web.BaseRequest, header: str, token: str | None) -> bool:
    return token is None or hmac.compare_digest(request.headers.get(header, "").encode("utf-8", "surrogateescape"), token.encode())


def _unreachable(address: Address, error: CloisterError) -> str:
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, ConflictError):
        return "the sandbox is being paused"
    _log.error("dial.failed", sandbox_id=address.sandbox_id, error=str(error))
    return "the sandbox's network cannot be reached"


def _describe(error: Exception) -> str:
    if isinstance(error, NoTlsError):
        return "it does not speak TLS, and network.httpsPorts names its port"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "it closed the connection without an answer"
    return "it did not answer in valid HTTP"
