"""The content of volumes: checks the token, and passes the request on to the process that serves the volume (``agent/volume/``).

That process speaks the contract: paths, queries and answers are its own, and errors have a text as ``code``. Bodies stream both ways.
Owns the connections, each of which the node makes. Invariant: no byte reaches a volume before its token was checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import ClientRequest, ClientTimeout, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from cloister.api.auth import slow_failures
from cloister.api.bodies import steady_chunks
from cloister.api.errors import status_of
from cloister.api.handlers import TEAM_ID, Api
from cloister.errors import CloisterError

__all__ = ["CONTENT_PATH", "VolumeConnector", "VolumeContent"]

CONTENT_PATH = "/volumecontent/{volume_id}/{part:path|dir|file|archive|upload}"
_BEARER = "Bearer "
_CHUNK = 256 << 10
_KEEP_ALIVE_S = 5.0
"""Shorter than the time after which an idle process ends."""
_SENT_ON = ("Content-Type", "Range")
_SENT_BACK = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges")


class VolumeConnector(aiohttp.BaseConnector):
    """An aiohttp connector whose hosts are ids of volumes."""

    def __init__(self, dial: Callable[[str], Awaitable[socket.socket]]) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        self._dial = dial

    async def _create_connection(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> ResponseHandler:
        del traces, timeout
        sock = await self._dial(req.connection_key.host)
        try:
            _, protocol = await self._loop.create_connection(self._factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol


class VolumeContent:
    """The handler of all methods and parts. Close it at the end."""

    def __init__(self, connector: VolumeConnector, stall_s: float) -> None:
        """``stall_s``: how long a transfer may make no progress."""
        timeout = ClientTimeout(total=None, sock_read=stall_s)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._stall_s = stall_s

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def handle(self, api: Api, request: web.Request) -> web.StreamResponse:
        """Answer a request of a client."""
        try:
            volume_id = request.match_info["volume_id"].lower()
            authorization = request.headers.get("Authorization", "")
            token = authorization.removeprefix(_BEARER) if authorization.startswith(_BEARER) else None
            volume = await slow_failures(api, request, api.volumes.check_token(volume_id, token), counted=token is not None)
            request[TEAM_ID] = volume.team_id
            return await self._pass_on(request, volume_id)
        except CloisterError as error:
            return _fault(status_of(error), error.code.upper(), str(error))

    async def _pass_on(self, request: web.Request, volume_id: str) -> web.StreamResponse:
        url = URL(f"http://{volume_id}/{request.match_info['part']}?{request.rel_url.raw_query_string}", encoded=True)
        headers = {name: request.headers[name] for name in _SENT_ON if name in request.headers}
        body = _Body(request, self._stall_s) if request.can_read_body else None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=None if body is None else body.chunks(), allow_redirects=False
            ) as answer:
                return await self._send_back(request, answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            if body is not None and body.error is not None:
                raise body.error from error
            return _fault(503, "UNAVAILABLE", f"the volume's content cannot be served now: {error or type(error).__name__}")

    async def _send_back(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: answer.headers[name] for name in _SENT_BACK if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        if "Content-Length" not in headers and answer.status != 204:
            response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for data in answer.content.iter_chunked(_CHUNK):
                async with asyncio.timeout(self._stall_s):
                    await response.write(data)
        except (aiohttp.ClientError, TimeoutError):  # the answer is not whole: the client must see that
            if request.transport is not None:
                request.transport.abort()
            raise
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response


class _Body:
    """The body of a request, on its way to the process."""

    def __init__(self, request: web.Request, stall_s: float) -> None:
        self._request = request
        self._stall_s = stall_s
        self.error: web.HTTPException | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. A client that stops sending breaks the connection, so that nothing is taken for whole."""
        try:
            async for chunk in steady_chunks(self._request.content, _CHUNK, self._stall_s):
                yield chunk
        except web.HTTPException as error:
            self.error = error
            raise ConnectionResetError("the client sends no more") from error


def _fault(status: int, code: str, message: str) -> web.Response:
    """An error in the form of the content API."""
    return web.Response(status=status, body=json.dumps({"code": code, "message": message}).encode(), content_type="application/json")
