"""Peers that run on this machine without Docker and KVM: programs that isolate, and servers that run code.

The servers do not isolate; their numbers are the cost of an answer over HTTP. A peer that cannot run here is a row with its message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
from bench.floors import Size, program_row
from bench.installed import MissingError, PeerHome
from bench.rows import Row, latency_row
from bench.stats import Samples

_SECTION = "peers"
_START_LIMIT_S = 40
_CALL_LIMIT_S = 30
_CODE = "print(1+1)"
_BWRAP = ("--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")


def measure_bwrap(home: PeerHome, size: Size) -> list[Row]:
    """``bubblewrap`` and the host's Python."""
    name = "bubblewrap + python3 -c 'print(1+1)'"
    try:
        argv = [home.program("bwrap", "bubblewrap"), *_BWRAP, "/usr/bin/python3", "-I", "-c", _CODE]
    except MissingError as error:
        return [Row(_SECTION, "peer.bwrap", name, reason=str(error))]
    return [program_row(_SECTION, "peer.bwrap", name, argv, size.rounds)]


def measure_runsc(home: PeerHome, size: Size) -> list[Row]:
    """``runsc do`` of gVisor and the host's Python, without a network; the platform is the release's default."""
    name = "runsc do python3 -c 'print(1+1)' (no network)"
    try:
        program = home.program("runsc", "runsc")
    except MissingError as error:
        return [Row(_SECTION, "peer.runsc", name, reason=str(error))]
    row = program_row(_SECTION, "peer.runsc", name, [program, "--network=none", "do", "/usr/bin/python3", "-I", "-c", _CODE], size.starts)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout.splitlines()
    row.note = version[0] if version else ""
    return [row]


@dataclass(frozen=True)
class ServerPeer:
    """The command of a server; ``{port}`` and ``{token}`` are replaced."""

    environment: str
    argv: tuple[str, ...]
    environ: dict[str, str]
    headers: dict[str, str]
    probe: str


JUPYTER = ServerPeer(
    "jupyter",
    ("jupyter-server", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port={port}", "--ServerApp.port_retries=0"),
    {"JUPYTER_TOKEN": "{token}"},
    {"Authorization": "token {token}"},
    "/api/status",
)
SWE_REX = ServerPeer(
    "swe-rex",
    ("swerex-remote", "--host=127.0.0.1", "--port={port}", "--auth-token={token}"),
    {},
    {"X-API-Key": "{token}"},
    "/is_alive",
)
OPEN_TERMINAL = ServerPeer(
    "open-terminal",
    ("open-terminal", "run", "--host=127.0.0.1", "--port={port}"),
    {"OPEN_TERMINAL_API_KEY": "{token}"},
    {"Authorization": "Bearer {token}"},
    "/health",
)


def _free_port() -> int:
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def running_peer(peer: ServerPeer, home: PeerHome) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the peer's server while the block lasts; its home is a temporary directory. Raises: MissingError."""
    programs = home.environment(peer.environment)
    port, token = str(_free_port()), uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as directory:

        def fill(text: str) -> str:
            return text.format(port=port, token=token)

        argv = [str(programs / peer.argv[0]), *map(fill, peer.argv[1:])]
        environ = {**os.environ, "HOME": directory, "PATH": f"{programs}:{os.environ['PATH']}"}
        environ |= {name: fill(value) for name, value in peer.environ.items()}
        said = Path(directory) / "said"
        with said.open("wb") as log:
            process = _start(argv, log, environ, directory)
        try:
            headers = {name: fill(value) for name, value in peer.headers.items()}
            timeout = aiohttp.ClientTimeout(total=_CALL_LIMIT_S)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers, timeout=timeout) as session:
                await _wait_served(session, peer, process, said)
                yield session
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(argv: list[str], log: BinaryIO, environ: dict[str, str], directory: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ, cwd=directory)


async def _wait_served(session: aiohttp.ClientSession, peer: ServerPeer, process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(peer.probe) as answer:
                if answer.status < 500:
                    return
        if process.poll() is not None or time.monotonic() > deadline:
            raise MissingError(f"{peer.argv[0]} did not start: {said.read_text(errors='replace').strip()[-300:]}")
        await asyncio.sleep(0.1)


async def _post(session: aiohttp.ClientSession, path: str, document: dict[str, Any]) -> Any:
    async with session.post(path, json=document) as answer:
        body = await answer.read()
        if answer.status >= 400:
            raise MissingError(f"{path}: {answer.status} {body[:200].decode(errors='replace')}")
        return json.loads(body)


async def _jupyter_run(socket_: aiohttp.ClientWebSocketResponse) -> None:
    """One ``1+1``, until its result arrived and the kernel is idle."""
    message_id, result = uuid.uuid4().hex, None
    header = {"msg_id": message_id, "msg_type": "execute_request", "username": "", "session": message_id, "version": "5.3"}
    content = {"code": "1+1", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    await socket_.send_json({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"})
    while True:
        message = await socket_.receive_json(timeout=_CALL_LIMIT_S)
        if message["parent_header"].get("msg_id") != message_id:
            continue
        if message["msg_type"] == "execute_result":
            result = message["content"]["data"]["text/plain"]
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            if result != "2":
                raise MissingError(f"1+1 was answered by {result!r}")
            return


async def _note(samples: Samples, name: str, work: Awaitable[Any]) -> Any:
    began = time.perf_counter()
    result = await work
    samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    return result


async def _jupyter(session: aiohttp.ClientSession, samples: Samples, size: Size) -> None:
    for number in range(size.starts + 1):
        round_: Samples = {}
        began = time.perf_counter()
        kernel = await _post(session, "/api/kernels", {"name": "python3"})
        async with session.ws_connect(f"/api/kernels/{kernel['id']}/channels") as socket_:
            await _jupyter_run(socket_)
            round_["create"] = [(time.perf_counter() - began) * 1000]
            for _ in range(size.rounds if number == size.starts else 0):
                await _note(round_, "warm", _jupyter_run(socket_))
        await _note(round_, "delete", _delete(session, f"/api/kernels/{kernel['id']}"))
        if number:
            for name, values in round_.items():
                samples.setdefault(name, []).extend(values)


async def _delete(session: aiohttp.ClientSession, path: str) -> None:
    async with session.delete(path) as answer:
        answer.raise_for_status()


async def _swe_rex(session: aiohttp.ClientSession, samples: Samples, size: Size) -> None:
    for number in range(size.starts + 1):
        name = {"session": f"s{number}", "session_type": "bash"}
        action = {"session": f"s{number}", "action_type": "bash", "command": "true", "timeout": _CALL_LIMIT_S}
        began = time.perf_counter()
        await _post(session, "/create_session", name)
        await _post(session, "/run_in_session", action)
        if number:
            samples.setdefault("session", []).append((time.perf_counter() - began) * 1000)
        for _ in range(size.rounds if number == size.starts else 0):
            await _note(samples, "warm", _post(session, "/run_in_session", action))
        await _post(session, "/close_session", name)


async def _open_terminal(session: aiohttp.ClientSession, samples: Samples, size: Size) -> None:
    for number in range(size.rounds + 1):
        began = time.perf_counter()
        answer = await _post(session, "/execute?wait=10", {"command": "true"})
        if answer["status"] != "done" or answer["exit_code"] != 0:
            raise MissingError(f"true was answered by {answer}")
        if number:
            samples.setdefault("execute", []).append((time.perf_counter() - began) * 1000)


_Work = Callable[[aiohttp.ClientSession, Samples, Size], Awaitable[None]]


def _measure(peer: ServerPeer, work: _Work, names: dict[str, tuple[str, str]], home: PeerHome, size: Size) -> list[Row]:
    samples: Samples = {}

    async def measure() -> None:
        async with running_peer(peer, home) as session:
            await work(session, samples, size)

    reason = ""
    try:
        asyncio.run(measure())
    except (MissingError, aiohttp.ClientError, TimeoutError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    rows = []
    for sample, (key, name) in names.items():
        row = latency_row(_SECTION, key, name, samples.get(sample, []))
        row.reason = reason if not row.numbers else row.reason
        rows.append(row)
    return rows


def measure_jupyter(home: PeerHome, size: Size) -> list[Row]:
    """A stock Jupyter server with ipykernel."""
    names = {
        "create": ("peer.jupyter_create", "Jupyter server: create kernel → first 1+1"),
        "warm": ("peer.jupyter_warm", "Jupyter server: warm 1+1"),
        "delete": ("peer.jupyter_delete", "Jupyter server: delete kernel"),
    }
    return _measure(JUPYTER, _jupyter, names, home, size)


def measure_swe_rex(home: PeerHome, size: Size) -> list[Row]:
    """SWE-ReX: sessions of bash, without isolation."""
    names = {
        "session": ("peer.swerex_session", "SWE-ReX: create session → first true"),
        "warm": ("peer.swerex_warm", "SWE-ReX: true in a warm session"),
    }
    return _measure(SWE_REX, _swe_rex, names, home, size)


def measure_open_terminal(home: PeerHome, size: Size) -> list[Row]:
    """Open Terminal: commands, each in a pseudo-terminal, without isolation."""
    return _measure(OPEN_TERMINAL, _open_terminal, {"execute": ("peer.open_terminal_execute", "Open Terminal: execute true")}, home, size)
