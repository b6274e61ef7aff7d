"""Where things are in the sandbox, and what the sandbox's variables say about it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from mcp_gateway.catalog import OWN_TABLE, GatewayError, Table, read_table
from mcp_gateway.install import Installer

__all__ = ["LOG_DIR", "PID_FILE", "PORT", "ROOT", "TOKEN_FILE", "installer", "table"]

ROOT = Path("/opt/mcp-gateway")
LOG_DIR = Path("/var/log/mcp-gateway")
TOKEN_FILE = Path("/etc/mcp-gateway/.token")
PID_FILE = Path("/run/mcp-gateway.pid")
PORT = 50005


def table() -> Table:
    """The servers of this template and those of the sandbox's own table."""
    return read_table(ROOT / "servers.toml", OWN_TABLE)


def installer() -> Installer:
    """Servers run as the variable MCP_GATEWAY_USER says, repositories come from MCP_GATEWAY_GIT. Raises: GatewayError."""
    user = os.environ.get("MCP_GATEWAY_USER", "user")
    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        raise GatewayError(f"MCP servers run as '{user}', which is no account of this sandbox; MCP_GATEWAY_USER names another") from None
    return Installer(ROOT, user=user, home=home, git_base=os.environ.get("MCP_GATEWAY_GIT", "https://github.com"))
