"""``cloister mcp`` with a client of the official MCP library, on standard input and output and over HTTP. The server is real."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.types import CallToolResult, EmbeddedResource, ImageContent

from framework.http import call
from framework.mcp_program import HttpProgram, over_http, over_stdio, run_program, sandboxes, serving, texts
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

PLOT = "print('before')\nimport matplotlib.pyplot as plt\nplt.plot([1, 4])\nplt.show()\nprint('after')\nx = 41\nx + 1"
START = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}


async def until(look: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    """Wait for a look that is true."""
    async with asyncio.timeout(timeout_s):
        while not await look():  # noqa: ASYNC110 - the other end has no event for it
            await asyncio.sleep(0.02)


async def code(client: Client, text: str, **arguments: object) -> CallToolResult:
    """Run code."""
    return await client.call_tool("run_code", {"code": text, **arguments})


async def command(client: Client, text: str, **arguments: object) -> CallToolResult:
    """Run a command."""
    return await client.call_tool("run_command", {"command": text, **arguments})


async def test_code_over_stdio(server: Server) -> None:
    """Output and plots arrive in order and as progress. Variables stay, failures are readable, and the sandbox ends with the session."""
    steps: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(message)

    async with over_stdio(server) as client:
        assert sandboxes(server) == []
        shown = await client.call_tool("run_code", {"code": PLOT}, progress_callback=note)
        told = texts(shown)
        assert told.startswith("before\n")
        assert told.endswith("42\n")
        (image,) = (part for part in shown.content if isinstance(part, ImageContent))
        assert image.mime_type == "image/png"
        assert base64.b64decode(image.data).startswith(b"\x89PNG")
        assert "before\n" in steps
        assert steps[-1] == "after\n"
        assert len(sandboxes(server)) == 1
        assert texts(await code(client, "x")) == "41\n"
        assert texts(await code(client, "const y = 1; y + 1", language="javascript")) == "2\n"
        assert texts(await code(client, "1 / 0"), is_error=True).endswith("ZeroDivisionError: division by zero\n")
        stopped = texts(await code(client, "print('on')\nwhile True: pass", timeout_s=0.5), is_error=True)
        assert stopped == "on\n[stopped after 0.5 s; variables are kept]\n"
        assert texts(await code(client, "x")) == "41\n"
        assert "Available: python" in texts(await code(client, "x", language="klingon"), is_error=True)
        assert "valid string" in texts(await client.call_tool("run_code", {"code": 5}), is_error=True)
        long = texts(await code(client, "print('a' * 50000 + 'b' * 50000)"))
        assert "[… 40001 characters left out …]" in long
        assert (long[0], long[-2:]) == ("a", "b\n")
        flood = texts(await code(client, "while True: print('x' * (1 << 20))"), is_error=True)
        assert "[stopped after 32 Mi characters of output; variables are kept]" in flood
        assert texts(await code(client, "x")) == "41\n"
        assert len(sandboxes(server)) == 1
    assert sandboxes(server) == []


async def test_commands_and_files_over_stdio(server: Server) -> None:
    """Commands in the foreground and background, files of each kind, addresses, and a new sandbox on demand, with the options' variables."""
    async with over_stdio(server, "--env", "MARK=m 1", "--no-internet") as client:
        assert texts(await command(client, "echo $MARK; echo oh >&2")) == "m 1\noh\n[exit code 0]\n"
        assert texts(await command(client, "pwd; exit 3", cwd="/tmp"), is_error=True) == "/tmp\n[exit code 3]\n"
        assert "[killed after 0.5 s" in texts(await command(client, "sleep 1000", timeout_s=0.5), is_error=True)
        await command(client, "mkfifo /tmp/pipe")
        started = texts(await command(client, "cat < /tmp/pipe; exit 4", background=True))
        number = int(started.split()[1])
        assert texts(await command(client, "echo two > /tmp/pipe", timeout_s=20)) == "[exit code 0]\n"
        assert texts(await client.call_tool("command_output", {"command_id": number, "wait_s": 20}), is_error=True) == "two\n[exit code 4]\n"
        number = int(texts(await command(client, "exec sleep 1000", background=True)).split()[1])
        assert texts(await client.call_tool("command_output", {"command_id": number})) == "[still running]\n"
        assert texts(await client.call_tool("kill_command", {"command_id": number})) == "killed"
        assert "there are: none" in texts(await client.call_tool("kill_command", {"command_id": number}), is_error=True)

        assert "5 bytes" in texts(await client.call_tool("write_file", {"path": "a/b.txt", "content": "hé\n!"}))
        assert texts(await client.call_tool("read_file", {"path": "a/b.txt"})) == "hé\n!"
        blob = base64.b64encode(bytes(range(256))).decode()
        await client.call_tool("write_file", {"path": "/tmp/b", "content": blob, "encoding": "base64"})
        (part,) = (await client.call_tool("read_file", {"path": "/tmp/b"})).content
        assert isinstance(part, EmbeddedResource)
        assert part.resource.model_dump()["blob"] == blob
        assert "not base64" in texts(
            await client.call_tool("write_file", {"path": "c", "content": "!", "encoding": "base64"}), is_error=True
        )
        assert "does not exist" in texts(await client.call_tool("read_file", {"path": "nothing"}), is_error=True)
        assert "is a directory" in texts(await client.call_tool("read_file", {"path": "a"}), is_error=True)
        assert "/home/user/a/b.txt" in texts(await client.call_tool("list_files", {"depth": 2}))
        await command(client, "seq 20000 > lines")
        page = texts(await client.call_tool("read_file", {"path": "lines"}))
        text, _, offset = page.rpartition("with offset ")
        rest = texts(await client.call_tool("read_file", {"path": "lines", "offset": int(offset.rstrip("]"))}))
        assert text.rpartition("\n[")[0] + rest == "".join(f"{n}\n" for n in range(1, 20001))
        await command(client, "truncate -s 2G big; ln -s big link; truncate -s 8M even; printf end >> even")
        for name, begin in (("big", 0), ("link", 0), ("link", 1 << 20)):
            refused = await client.call_tool("read_file", {"path": name, "offset": begin})
            assert "has more than 5242880 bytes after offset" in texts(refused, is_error=True)
        assert texts(await client.call_tool("read_file", {"path": "even", "offset": 8 << 20})) == "end"
        assert texts(await client.call_tool("get_url", {"port": 8000})).startswith("http://8000-")
        await client.call_tool("reset_sandbox", {})
        assert "does not exist" in texts(await client.call_tool("read_file", {"path": "a/b.txt"}), is_error=True)
        assert len(sandboxes(server)) == 1


async def test_a_sandbox_that_ended_is_replaced_and_told(server: Server) -> None:
    """After the sandbox expired or was killed, the first call says that files and variables are lost."""
    async with over_stdio(server, "--timeout", "8") as client:
        assert texts(await code(client, "x = 1", timeout_s=8)) == "(no output)"

        async def is_gone() -> bool:
            return sandboxes(server) == []

        await until(is_gone)
        assert texts(await code(client, "'x' in globals()", timeout_s=600)).endswith("new one, without their files, variables and commands]False\n")
        (alive,) = sandboxes(server)
        assert call(server.url, "DELETE", f"/sandboxes/{alive['sandboxID']}", headers={"X-API-Key": server.api_key}).status == 204
        assert "The sandbox has ended" in texts(await code(client, "1", timeout_s=1), is_error=True)
        assert texts(await code(client, "1")) == "1\n"


async def test_sessions_over_http(server: Server, tmp_path: Path) -> None:
    """Each session has its own sandbox, which ends with it. Sessions beyond the limit and pages with another host name are refused."""
    with serving(server, tmp_path, "--max-sessions", "2") as program:
        async with over_http(program) as first:
            assert texts(await code(first, "x = 1; x")) == "1\n"
            async with over_http(program) as second:
                assert "NameError" in texts(await code(second, "x"), is_error=True)
                assert len(sandboxes(server)) == 2
                with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the client makes of 503
                    async with over_http(program):
                        pass

            async def is_one() -> bool:
                return len(sandboxes(server)) == 1

            await until(is_one)
            assert texts(await code(first, "x")) == "1\n"
        refused_are_all_but_ours(program)
        program.process.terminate()
        assert program.process.wait(20) == -signal.SIGTERM
    assert sandboxes(server) == []
    assert stat.S_IMODE((tmp_path / "mcp.key").stat().st_mode) == 0o600


def refused_are_all_but_ours(program: HttpProgram) -> None:
    """No key, another key, the name of a web page's host, a web page: none gets to the server."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    good = {"Authorization": f"Bearer {program.key}"}
    address, path = program.url.removesuffix("/mcp"), "/mcp"
    for more, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {program.key}x"}, 401),
        ({**good, "Host": "rebound.example"}, 421),
        ({**good, "Origin": "http://localhost:5173"}, 403),
        ({**good, "Mcp-Session-Id": "0" * 32}, 404),
        ({**good, "MCP-Protocol-Version": "2026-07-28"}, 400),
    ):
        assert call(address, "POST", path, body=START, headers={**headers, **more}).status == status, more


async def test_an_idle_session_ends_with_its_sandbox(server: Server, tmp_path: Path) -> None:
    """A client that went away without a word keeps nothing alive."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with serving(server, tmp_path, "--session-timeout", "2") as program:
        headers["Authorization"] = f"Bearer {program.key}"
        asked = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        began = call(program.url, "POST", "/mcp", body={**START, "params": asked}, headers=headers)
        headers["Mcp-Session-Id"] = began.headers["Mcp-Session-Id"]
        call(program.url, "POST", "/mcp", body={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
        run = {"name": "run_code", "arguments": {"code": "6 * 7"}}
        answer = call(program.url, "POST", "/mcp", body={"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": run}, headers=headers)
        assert b"42" in answer.body
        assert len(sandboxes(server)) == 1

        async def is_gone() -> bool:
            return sandboxes(server) == []

        await until(is_gone)
        assert call(program.url, "POST", "/mcp", body={**START, "id": 3}, headers=headers).status == 404


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_cancelled_calls_stop_what_they_ran(server: Server, tmp_path: Path, transport: str) -> None:
    """Code is interrupted and keeps its variables; a command is killed; the session goes on."""
    async with contextlib.AsyncExitStack() as stack:
        if transport == "http":
            program = stack.enter_context(serving(server, tmp_path))
            client = await stack.enter_async_context(over_http(program))
        else:
            client = await stack.enter_async_context(over_stdio(server))
        await code(client, "x = 1")

        async def said(text: str, look: str) -> bool:
            return look in texts(await command(client, f"{text} || true"))

        for tool, arguments in (
            ("run_code", {"code": "import time; open('/tmp/begun', 'w').close(); time.sleep(600)"}),
            ("run_command", {"command": "touch /tmp/begun; exec sleep 612"}),
        ):
            running = asyncio.create_task(client.call_tool(tool, arguments))
            await until(lambda: said("ls /tmp/begun 2>&1 && sudo rm /tmp/begun", "/tmp/begun\n["))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        await until(lambda: said("pgrep -x sleep | wc -l", "0\n"))
        assert texts(await code(client, "x", timeout_s=20)) == "1\n"


def test_without_a_server_the_command_says_what_to_set(tmp_path: Path) -> None:
    """No variables and no server here: one line with the remedy, no traceback."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    program = [sys.executable, "-m", "cloister.cli.main", "mcp", "--data-dir", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 1
    assert "has `cloister serve` been started" in done.stderr
    named = subprocess.run([*program[:4]], capture_output=True, text=True, check=False, env={**environ, "E2B_API_URL": "http://127.0.0.1:9"})
    assert named.returncode == 2
    assert "set E2B_API_URL and E2B_API_KEY" in named.stderr


def test_http_is_not_opened_to_others_by_mistake(tmp_path: Path) -> None:
    """An address that is not loopback needs host names. A key file that others can read is refused."""
    asked = run_program("--http", "0.0.0.0:8000")
    assert asked.returncode == 2
    assert "--allow-host" in asked.stderr
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "key").chmod(0o644)
    read = run_program("--http", "127.0.0.1:0", "--key-file", str(tmp_path / "key"))
    assert read.returncode == 1
    assert "can be read by other users" in read.stderr
    (tmp_path / "key").chmod(0o600)
    os.chown(tmp_path / "key", 12345, 12345)
    read = run_program("--http", "127.0.0.1:0", "--key-file", str(tmp_path / "key"))
    assert read.returncode == 1
    assert "another user's" in read.stderr
