"""The MCP server: one session on standard input and output, or many over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

from cloister_mcp import __version__
from cloister_mcp.options import SandboxOptions
from cloister_mcp.session import Session
from cloister_mcp.tools import SessionOf, add_tools

__all__ = ["for_many", "for_one"]

_INSTRUCTIONS = """\
A Linux sandbox of your own: code in several languages, shell commands, files. It is made by the first call and kept for the session;
it ends when it is not used for {idle_s} s, and the next call gets a new one. The internet is {internet}."""
_KEY = "cloister session"
_INTERRUPTED = 130


def for_one(options: SandboxOptions) -> MCPServer[Any]:
    """A server whose process is the session."""
    session = Session(options)

    @contextlib.asynccontextmanager
    async def life(_server: MCPServer[Any]) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:  # a signal: the thread that reads standard input would hold the process back
            await session.close()
            os._exit(_INTERRUPTED)
        finally:
            await session.close()

    return _server(options, lambda _ctx: session, life)


def for_many(options: SandboxOptions) -> MCPServer[Any]:
    """A server with a sandbox for each connection that began with a handshake."""

    def session_of(ctx: Context[Any, Any]) -> Session:
        connection = ctx.session._connection  # noqa: SLF001 - the library hands it to handlers by no other name yet
        if _KEY not in connection.state:
            session = connection.state[_KEY] = Session(options)
            connection.exit_stack.push_async_callback(session.close)
        found: Session = connection.state[_KEY]
        return found

    return _server(options, session_of, None)


def _server(options: SandboxOptions, session_of: SessionOf, lifespan: Any) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer(
        "cloister",
        title="Cloister sandbox",
        version=__version__,
        instructions=_INSTRUCTIONS.format(idle_s=options.idle_s, internet="reachable" if options.internet else "not reachable"),
        log_level="WARNING",
        lifespan=lifespan,
    )
    add_tools(server, session_of)
    return server
