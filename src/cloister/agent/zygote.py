"""The agent's zygote: imports and exercises everything once, then forks an agent for each sandbox (docs/decisions/0014-zygotes.md).

Runs in: a process of the zone, without network, whose children enter sandboxes. It runs only our code and never talks to a client.
Invariant: when it begins to fork it has one thread, no event loop, no descriptor of its own, and no data of any sandbox.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cloister.agent.assembly import Assembly
from cloister.agent.birth import BirthError, complete_birth, take_environment
from cloister.agent.clock import PausableLoop
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.orphans import Orphans
from cloister.agent.pretend_kernel import pretend_kernel
from cloister.agent.state import read_init
from cloister.agent.told import tell_ids
from cloister.protocol.init_document import AgentLimits, InitDocument

__all__ = ["run"]


_JOIN_S = 10
_POOL_BYTES = 16 << 10
_MAX_FILLING_BYTES = 2 << 20
"""Bound for each size, for interpreters that lay out objects differently."""
_ROUNDS = 4
"""After the third round all bytecode is specialised and all caches are filled."""


def run(serve: Callable[[], socket.socket], settle: Callable[[], None], launcher: KernelLauncher, live: Callable[[Assembly], None]) -> None:
    """Warm up, then fork for ever; in each child ``live`` runs the agent. ``serve`` and ``settle`` are of the drivers' zygote modules."""
    for _ in range(_ROUNDS):
        with pretend_kernel() as kernel, asyncio.Runner(loop_factory=PausableLoop) as runner:
            runner.run(_exercise(launcher, kernel))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(_JOIN_S)
    assembly = Assembly(launcher)
    gc.collect()
    filling = _fill_holes()
    settle()
    birth = serve()
    try:
        complete_birth(birth)
    except (OSError, BirthError) as error:
        print(f"an agent was not born: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # without the zygote's exit handlers
    live(assembly)
    del filling


def _fill_holes() -> list[list[bytes]]:
    """Fill the holes that freed objects left with objects. A child's new objects then lie together in new pages, not in pages it shares.

    Python keeps objects of up to 512 bytes in pools of 16 KiB, one size each. It takes a new pool only when no pool of that size has room.
    """
    kept = []
    header = sys.getsizeof(b"")
    for size in range(48, 513, 16):
        row: list[bytes] = []
        in_row = 0
        while in_row < _POOL_BYTES // size - 2 and len(row) * size < _MAX_FILLING_BYTES:
            row.append(bytes(size - header))
            in_row = in_row + 1 if len(row) > 1 and id(row[-1]) - id(row[-2]) == size else 0
        kept.append(row)
    return kept


def _rpc(path: str, message: object) -> bytes:
    return _post(path, json.dumps(message).encode(), "application/json")


def _post(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Basic cm9vdDo=\r\n\r\n".encode() + body


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


_START = json.dumps({"process": {"cmd": "/dev/null"}}).encode()  # cannot be executed: everything except the exec is exercised
_REQUESTS = (
    _get("/health"),
    _get("/metrics"),
    _get("/logs?agent_id=&since=0"),
    _get("/contexts"),
    _get("/nothing"),
    _rpc("/filesystem.Filesystem/Stat", {"path": "/"}),
    _post("/filesystem.Filesystem/Stat", b"\n\x01/", "application/proto"),
    _post("/process.Process/Start", b"\0" + len(_START).to_bytes(4, "big") + _START, "application/connect+json"),
    *[_post("/execute", b'{"code": "1"}', "application/json")] * 3,
)


async def _exercise(launcher: KernelLauncher, kernel: socket.socket) -> None:
    """Run an agent with a kernel and send it a few requests, on sockets without a network."""
    assembly = Assembly(launcher)
    launcher.state.become(_read_a_document())
    assembly.begin()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, assembly.begin)
    reading, writing = os.pipe()
    Orphans.at(reading).listen()
    loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
    take_environment(dict(os.environ))
    control, interpreter = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    names = []
    for listener in (control, interpreter):
        listener.bind("")  # the kernel chooses a name outside the file system
        names.append(listener.getsockname())
    await assembly.serve(control, interpreter)
    default = assembly.contexts.default("python")
    default.expect(launcher.adopt(kernel, Orphans(None), default.language, "/"))
    for name in names:
        for request in _REQUESTS:
            reader, writer = await asyncio.open_unix_connection(name)
            writer.write(request)
            await reader.read()
            writer.close()
            await writer.wait_closed()
    await assembly.end()
    loop.remove_signal_handler(signal.SIGTERM)


def _read_a_document() -> InitDocument:
    fd = os.memfd_create("init")
    limits = AgentLimits(mem_mib=512)
    given = InitDocument(sandbox_id="", envs={"A": "1"}, languages=("python",), limits=limits, access_token="t")  # noqa: S106 - no secret
    os.write(fd, given.to_json())
    document = read_init(fd)
    os.close(fd)
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            tell_ids(document, Path(directory))
    return replace(document, access_token=None)
