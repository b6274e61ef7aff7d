"""The ingress: a middleware that takes the requests that mean a sandbox, checks them, and forwards them.

Owns the checks of the data plane (I5) and the answers given when a sandbox cannot. Invariant: a request reaches a sandbox only if that
sandbox runs now and its tokens allow it.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable

import aiohttp
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from cloister.errors import CloisterError, SandboxNotFoundError, UnavailableError
from cloister.proxy import answers
from cloister.proxy.address import Address, AddressError, find_address
from cloister.proxy.forward import STARTED, Forwarder, abort
from cloister.proxy.routes import Dialer, Gone, Route, Routes
from cloister.proxy.signed import find_signer, signed_request
from cloister.proxy.upstream import PortClosedError, SandboxConnector, SandboxEndedError, Users

__all__ = ["AGENT_PORT", "INTERPRETER_PORT", "Ingress"]

_log = structlog.get_logger("cloister.proxy")
AGENT_PORT = 49983
INTERPRETER_PORT = 49999
_INTERNAL_PATHS = {
    AGENT_PORT: frozenset({"/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/logs"}),
    INTERPRETER_PORT: frozenset({"/logs"}),
}
"""What the agent serves to the server only."""
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Ingress:
    """The data plane of one server."""

    def __init__(self, routes: Routes, dialer: Dialer) -> None:
        self._routes = routes
        self.connector = SandboxConnector(dialer)
        """The connections into sandboxes; :meth:`close` closes it."""
        self._forwarder = Forwarder(self.connector)
        self.on_agent_used: Callable[[str, int], None] = lambda _sandbox_id, _port: None
        """Called before and after each request that reaches one of the agent's ports."""
        self._users = Users()

    async def close(self) -> None:
        """Close the connections into sandboxes."""
        await self._forwarder.close()

    def end(self, sandbox_id: str) -> None:
        """Let go of a sandbox that ended: break what is under way, drop what is idle."""
        self._users.end(sandbox_id)
        self.connector.drop(sandbox_id)

    def middleware(self) -> Middleware:
        """The middleware; it is to be the outermost."""

        @web.middleware
        async def ingress(request: web.Request, handler: _Next) -> web.StreamResponse:
            try:
                address = find_address(request.headers)
            except AddressError as error:
                return answers.malformed(request, str(error))
            if address is not None:
                return await self._handle(request, address)
            signed = signed_request(request.method, request.path, request.query, request.headers)
            if signed is None:
                return await handler(request)
            signer = find_signer(signed, self._routes.access_tokens())
            if signer is None:
                return answers.refused(request, 401, "invalid signature: no running sandbox has signed this URL")
            return await self._handle(request, Address(signer, AGENT_PORT))

        return ingress

    async def _handle(self, request: web.Request, address: Address) -> web.StreamResponse:
        began = time.perf_counter()
        status = 0
        try:
            response = await self._answer(request, address)
            status = response.status
            return response
        finally:
            _log.info(
                "traffic.completed",
                sandbox_id=address.sandbox_id,
                port=address.port,
                method=request.method,
                status=status,
                duration_ms=round((time.perf_counter() - began) * 1000, 2),
            )

    async def _answer(self, request: web.Request, address: Address) -> web.StreamResponse:
        route = self._routes.find(address.sandbox_id)
        if not isinstance(route, Route):
            return self._absent(request, address, route)
        if (refusal := check_request(request, address, route)) is not None:
            return refusal
        is_agent = address.port in {AGENT_PORT, INTERPRETER_PORT}
        try:
            with self._users.use(address.sandbox_id):
                if is_agent:
                    self.on_agent_used(address.sandbox_id, address.port)
                return await self._forwarder.forward(request, address)
        except (SandboxEndedError, aiohttp.ClientError, CloisterError) as error:
            if request.get(STARTED):
                abort(request)
                raise ConnectionResetError("the answer broke off") from error
            return self._explain(request, address, error)
        finally:
            if is_agent:
                self.on_agent_used(address.sandbox_id, address.port)

    def _explain(self, request: web.Request, address: Address, error: Exception) -> web.Response:
        route = self._routes.find(address.sandbox_id)
        if isinstance(error, SandboxEndedError | SandboxNotFoundError) or not isinstance(route, Route):
            return self._absent(request, address, route)
        if isinstance(error, PortClosedError):
            return answers.port_closed(request, address.sandbox_id, address.port)
        if isinstance(error, UnavailableError):
            return answers.unavailable(request, address.sandbox_id, str(error))
        if isinstance(error, CloisterError):
            _log.error("dial.failed", sandbox_id=address.sandbox_id, error=str(error))
            return answers.unavailable(request, address.sandbox_id, "the sandbox's network cannot be reached")
        return answers.unusable(request, address.sandbox_id, address.port, _describe(error))

    @staticmethod
    def _absent(request: web.Request, address: Address, route: Route | Gone | None) -> web.Response:
        if isinstance(route, Gone):
            return answers.gone(request, address.sandbox_id, route.why)
        return answers.not_found(request, address.sandbox_id)


def check_request(request: web.BaseRequest, address: Address, route: Route) -> web.Response | None:
    """The refusal of a request that must not reach the sandbox, or None."""
    if request.path.rstrip("/").lower() in _INTERNAL_PATHS.get(address.port, ()):
        return answers.refused(request, 404, "there is nothing here")
    if address.port == AGENT_PORT:
        return None
    if not _matches(request, "E2b-Traffic-Access-Token", route.traffic_token):
        return answers.refused(request, 403, "the e2b-traffic-access-token header is missing or wrong")
    if address.port != INTERPRETER_PORT or request.path != "/execute" or request.method == "OPTIONS":
        return None  # a browser asks OPTIONS beforehand, without tokens; the agent answers it, and runs nothing
    if not _matches(request, "X-Access-Token", route.access_token):
        return answers.refused(request, 401, "the X-Access-Token header is missing or wrong")
    return None


def _matches(request: web.BaseRequest, header: str, token: str | None) -> bool:
    return token is None or hmac.compare_digest(request.headers.get(header, "").encode("utf-8", "surrogateescape"), token.encode())


def _describe(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "it closed the connection without an answer"
    return "it did not answer in valid HTTP"
