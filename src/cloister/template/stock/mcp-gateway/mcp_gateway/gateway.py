"""All configured MCP servers as one: lists are joined, calls go to the server that they name.

Names are those of the servers. When two servers offer the same name, each gets its server's before it: ``time__now`` and ``clock__now``.
Lists are asked for anew each time, so what a server adds later is there. A server that does not answer is missing in them, and the log
says so: one that broke must not take the others with it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import mcp_types as types
from mcp.client.session import ClientSession
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from mcp_gateway.backend import Backend
from mcp_gateway.catalog import GatewayError

__all__ = ["Gateway"]

_LIST_TIMEOUT_S = 30.0
_Result = TypeVar("_Result")
_log = logging.getLogger("mcp-gateway")
_Context = ServerRequestContext[Any, Any]
_Owned = tuple[Backend, Any]


class Gateway:
    """Answers for ``backends``."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = tuple(backends)
        self._tools: dict[str, tuple[Backend, str]] = {}
        self._prompts: dict[str, tuple[Backend, str]] = {}
        self._resources: dict[str, Backend] = {}

    def server(self) -> Server[Any]:
        """The MCP server that clients of the gateway talk to."""
        return Server(
            "mcp-gateway",
            version="1",
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    async def _list_tools(self, _context: _Context, _params: object) -> types.ListToolsResult:
        self._tools, tools = _named(await self._all("tools", "tools", lambda session, page: session.list_tools(params=page)))
        return types.ListToolsResult(tools=tools)

    async def _list_prompts(self, _context: _Context, _params: object) -> types.ListPromptsResult:
        self._prompts, prompts = _named(await self._all("prompts", "prompts", lambda session, page: session.list_prompts(params=page)))
        return types.ListPromptsResult(prompts=prompts)

    async def _list_resources(self, _context: _Context, _params: object) -> types.ListResourcesResult:
        found = await self._all("resources", "resources", lambda session, page: session.list_resources(params=page))
        self._resources = {str(resource.uri): backend for backend, resource in found}
        return types.ListResourcesResult(resources=[resource for _, resource in found])

    async def _list_templates(self, _context: _Context, _params: object) -> types.ListResourceTemplatesResult:
        found = await self._all("resources", "resource_templates", lambda session, page: session.list_resource_templates(params=page))
        return types.ListResourceTemplatesResult(resource_templates=[template for _, template in found])

    async def _call_tool(self, context: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in self._tools:
            await self._list_tools(context, None)
        if params.name not in self._tools:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool '{params.name}'")
        backend, name = self._tools[params.name]
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=params.arguments))
        progress = context.session.report_progress
        return await _asked(
            backend, lambda session: session.send_request(request, types.CallToolResult, progress_callback=progress)
        )  # not `call_tool`: whether the result fits the tool's schema is for the client to say

    async def _get_prompt(self, context: _Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        if params.name not in self._prompts:
            await self._list_prompts(context, None)
        if params.name not in self._prompts:
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt '{params.name}'")
        backend, name = self._prompts[params.name]
        return await _asked(backend, lambda session: session.get_prompt(name, params.arguments))

    async def _read_resource(self, _context: _Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        candidates = [self._resources[uri]] if uri in self._resources else self._backends
        refusal = MCPError(types.INVALID_PARAMS, f"there is no resource '{uri}'")
        for backend in candidates:
            try:
                return await _asked(backend, lambda session: session.read_resource(uri))
            except MCPError as error:
                refusal = error if error.code != types.METHOD_NOT_FOUND else refusal
        raise refusal

    async def _all(
        self, capability: str, attribute: str, ask: Callable[[ClientSession, types.PaginatedRequestParams | None], Awaitable[Any]]
    ) -> list[_Owned]:
        """Every page of every server that has any, in the order of the configuration."""

        async def pages(backend: Backend) -> list[_Owned]:
            if not await backend.serves(capability):
                return []
            found: list[_Owned] = []
            page: types.PaginatedRequestParams | None = None
            while True:
                result = await backend.ask(lambda session, page=page: ask(session, page))  # type: ignore[misc]
                found += [(backend, item) for item in getattr(result, attribute)]
                if not result.next_cursor:
                    return found
                page = types.PaginatedRequestParams(cursor=result.next_cursor)

        async def answered(backend: Backend) -> list[_Owned]:
            try:
                async with asyncio.timeout(_LIST_TIMEOUT_S):
                    return await pages(backend)
            except (GatewayError, MCPError, TimeoutError) as error:
                if not isinstance(error, MCPError) or error.code != types.METHOD_NOT_FOUND:
                    _log.warning("%s is missing in the list of %s: %s", backend.name, attribute, error or "no answer in time")
                return []

        return [item for items in await asyncio.gather(*map(answered, self._backends)) for item in items]


async def _asked(backend: Backend, request: Callable[[ClientSession], Awaitable[_Result]]) -> _Result:
    try:
        return await backend.ask(request)
    except GatewayError as error:
        raise MCPError(types.INTERNAL_ERROR, str(error)) from error


def _named(found: Iterable[tuple[Backend, Any]]) -> tuple[dict[str, tuple[Backend, str]], list[Any]]:
    """Where each name leads, and the items under their names."""
    found = list(found)
    times = Counter(item.name for _, item in found)
    where: dict[str, tuple[Backend, str]] = {}
    items = []
    for backend, item in found:
        name = item.name if times[item.name] == 1 else f"{_prefix(backend.name)}__{item.name}"
        where[name] = (backend, item.name)
        items.append(item.model_copy(update={"name": name}))
    return where, items


def _prefix(server: str) -> str:
    """Of characters that every client takes in a tool's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", server.removeprefix("github/"))
