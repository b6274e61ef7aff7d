"""``cloister mcp`` as MCP clients start it or reach it, and the official client on the other end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from framework.http import call
from framework.server import Server

__all__ = ["HttpProgram", "over_http", "over_stdio", "run_program", "sandboxes", "serving", "texts"]

_TIMEOUT_S = 60.0
_PROGRAM = Path(__file__).parents[2] / ".venv-mcp" / "bin" / "cloister-mcp"


@dataclass(frozen=True)
class HttpProgram:
    """One that serves HTTP."""

    url: str
    key: str
    process: subprocess.Popen[str]


def _program() -> str:
    if not _PROGRAM.exists():
        pytest.skip("the environment of cloister mcp is not there: run make install")
    return str(_PROGRAM)


def run_program(*options: str) -> subprocess.CompletedProcess[str]:
    """Its end, for options that it refuses."""
    environ = {"PATH": "/usr/bin:/bin", "E2B_API_KEY": "x", "E2B_API_URL": "http://127.0.0.1:9"}
    return subprocess.run([_program(), *options], capture_output=True, text=True, check=False, env=environ, timeout=30)


@contextlib.asynccontextmanager
async def over_stdio(server: Server, *options: str) -> AsyncIterator[Client]:
    """A session with ``cloister mcp``, which finds the server by its data directory."""
    _program()
    words = ["-m", "cloister.cli.main", "mcp", "--data-dir", str(server.data_dir), *options]
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/root"}
    with tempfile.TemporaryFile("w+") as said:
        async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=words, env=environ), errlog=said)) as client:
            yield client
        said.seek(0)
        assert said.read() == ""


@contextlib.contextmanager
def serving(server: Server, directory: Path, *options: str) -> Iterator[HttpProgram]:
    """A program that serves HTTP while the block lasts; ``directory`` has its key."""
    key_file = directory / "mcp.key"
    command = [_program(), "--http", "127.0.0.1:0", "--key-file", str(key_file), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin", **server.environ}) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "ready on " in line, line + process.stderr.read()
            yield HttpProgram(line.split("ready on ")[1].split(";")[0], key_file.read_text().strip(), process)
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def over_http(program: HttpProgram, **headers: str) -> AsyncIterator[Client]:
    """A session over HTTP."""
    every = {"Authorization": f"Bearer {program.key}", **headers}
    async with (
        httpx2.AsyncClient(headers=every, timeout=_TIMEOUT_S) as http,
        Client(streamable_http_client(program.url, http_client=http)) as client,
    ):
        yield client


def texts(result: CallToolResult, *, is_error: bool = False) -> str:
    """The text of an answer, which must be of that kind; other content is named by its type."""
    parts = [part.text if isinstance(part, TextContent) else f"<{part.type}>" for part in result.content]
    assert result.is_error is is_error, parts
    return "".join(parts)


def sandboxes(server: Server) -> list[dict[str, Any]]:
    """Those that ``cloister mcp`` made and that are alive."""
    answer = call(server.url, "GET", "/sandboxes?metadata=client%3Dcloister-mcp", headers={"X-API-Key": server.api_key})
    found: list[dict[str, Any]] = json.loads(answer.body)
    return found
