"""A small MCP server on standard input and output, of the standard library: it says who it is, or ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

TOOLS = [{"name": name, "description": name, "inputSchema": {"type": "object"}} for name in ("whoami", "end")]
INFO = {"name": "small", "version": "1"}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request."""
    if method == "initialize":
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": INFO}
    if method == "tools/list":
        return {"tools": TOOLS}
    if params.get("name") == "end":
        os._exit(1)
    said = {
        "user": os.environ["USER"],
        "uid": os.getuid(),
        "cwd": str(Path.cwd()),
        "mark": os.environ.get("MARK", ""),
        "pid": os.getpid(),
        "token": os.environ.get("GATEWAY_ACCESS_TOKEN", "none"),
    }
    return {"content": [{"type": "text", "text": json.dumps(said)}]}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = answer(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
