"""An MCP server by HTTP on port 3001 that says what header it was sent; run by the gateway's own Python."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    """One tool."""
    return types.ListToolsResult(tools=[types.Tool(name="far", description="far", input_schema={"type": "object"})])


async def call_tool(context: Any, _params: Any) -> types.CallToolResult:
    """Says what it was sent."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=context.request.headers["x-key"])])


server = Server("remote", on_list_tools=list_tools, on_call_tool=call_tool)
app = server.streamable_http_app(transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))
uvicorn.run(app, host="127.0.0.1", port=3001, log_level="warning")
