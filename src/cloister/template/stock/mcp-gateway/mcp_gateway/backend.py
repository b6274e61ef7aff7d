"""One configured MCP server: its process or connection, and the one session that all clients of the gateway share.

The session is owned by a task of its own, because it must be left in the task that entered it. A server that ended is started again by the
next request; a request that was under way fails, since nobody knows what it had done. What a server asks of its client (sampling,
elicitation, roots) is refused: the gateway does not know which client is meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar, cast

import httpx2
import mcp_types as types
from mcp.client import Client
from mcp.client._transport import Transport, TransportStreams
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from mcp_gateway.catalog import GatewayError, Plan
from mcp_gateway.install import Start

__all__ = ["START_TIMEOUT_S", "Backend"]

START_TIMEOUT_S = 45.0
_TAIL_LINES = 15
_Result = TypeVar("_Result")
_log = logging.getLogger("mcp-gateway")


class _Watched:
    """A read stream that says when it has ended."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        return cast("bool | None", await self._stream.__aexit__(*error))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise


class Backend:
    """A server that is started by the first use."""

    def __init__(self, plan: Plan, start: Start | None, log_dir: Path) -> None:
        self.name = plan.name
        self._plan = plan
        self._start = start
        self._log_path = log_dir / f"{plan.name.replace('/', '-')}.log"
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._starting = asyncio.Lock()

    async def open(self) -> Client:
        """The session, started if there is none.

        Raises:
            GatewayError: the server did not start; with the end of what it wrote.
        """
        async with self._starting:
            if self._client is None:
                ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
                self._owner = asyncio.create_task(self._own(ready))
                try:
                    self._client = await asyncio.wait_for(asyncio.shield(ready), START_TIMEOUT_S)
                except TimeoutError:
                    self._owner.cancel()
                    raise GatewayError(self._failure(f"no answer within {START_TIMEOUT_S:.0f} s")) from None
            return self._client

    async def close(self) -> None:
        """End the server."""
        self._stop.set()
        if self._owner is not None:
            await asyncio.wait([self._owner])

    async def ask(self, request: Callable[[ClientSession], Awaitable[_Result]]) -> _Result:
        """What the server answers. Raises: GatewayError (it does not start), MCPError (its own, or its end)."""
        client = await self.open()
        return await request(client.session)

    async def serves(self, capability: str) -> bool:
        """Whether it has ``tools``, ``prompts``, ``resources`` or ``completions``."""
        return getattr((await self.open()).server_capabilities, capability, None) is not None

    async def _own(self, ready: asyncio.Future[Client]) -> None:
        ended = asyncio.Event()
        try:
            with self._log_path.open("w", encoding="utf-8") as log:
                info = types.Implementation(name="mcp-gateway", version="1")
                async with Client(cast("Transport", self._transport(log, ended)), mode="legacy", client_info=info, cache=None) as client:
                    ready.set_result(client)
                    waits = [asyncio.create_task(event.wait()) for event in (ended, self._stop)]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    for wait in waits:
                        wait.cancel()
                    self._client = None
            if not self._stop.is_set():
                _log.warning("%s ended", self.name)
        except Exception as error:  # noqa: BLE001 - a task ends here, and whoever waits for the server is told why
            self._client = None
            reason = self._failure(_reason(error))
            _log.warning("%s", reason)
            if not ready.done():
                ready.set_exception(GatewayError(reason))

    @asynccontextmanager
    async def _transport(self, log: TextIO, ended: asyncio.Event) -> AsyncIterator[TransportStreams]:
        async with self._streams(log) as (read, write):
            yield cast("TransportStreams", (_Watched(read, ended), write))

    def _streams(self, log: TextIO) -> AbstractAsyncContextManager[TransportStreams]:
        if self._start is None:
            http = httpx2.AsyncClient(headers=dict(self._plan.headers), timeout=httpx2.Timeout(30, read=300))
            return streamable_http_client(self._plan.url, http_client=http)
        command, *args = self._start.argv
        parameters = StdioServerParameters(command=command, args=args, env=dict(self._start.env), cwd=self._start.cwd)
        return stdio_client(parameters, errlog=log)

    def _failure(self, reason: str) -> str:
        written = self._log_path.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:] if self._log_path.exists() else []
        return "\n".join([f"MCP server '{self.name}' did not start: {reason}", *written])


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
