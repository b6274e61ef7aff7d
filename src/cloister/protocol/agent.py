"""Facts about the agent that the server and the agent share: its ports, and the PATH of programs that set none."""

from __future__ import annotations

__all__ = ["AGENT_PORT", "AGENT_PORTS", "DEFAULT_PATH", "INTERPRETER_PORT", "RELAY_PORT"]

AGENT_PORT = 49983
"""The envd-compatible API."""
INTERPRETER_PORT = 49999
"""The code-interpreter API."""
RELAY_PORT = 49982
"""Where a runtime that reaches a sandbox by its address alone reaches ports that listen on loopback (agent/relay.py)."""
AGENT_PORTS = frozenset({AGENT_PORT, INTERPRETER_PORT})
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
