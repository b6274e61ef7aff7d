"""Sandboxes whose memory is saved on disk: resume, wake, live fork, standstill and memory, on a server with checkpoints."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.machine import available_mib
from bench.serverside import charged_mib, instance_of
from bench.stats import Samples, timed
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from framework.http import Answer
from framework.lifecycles import WEB_SERVER, api, inside
from framework.server import Server
from framework.waiting import eventually

__all__ = ["measure_saved"]

SERVER = ("--checkpoint", "auto", "--paused-to-disk-s", "1", "--log-level", "info")
"""Options of the server: memory of a paused sandbox goes to disk after a second, when the server looks."""
_HELD = "import os; held = os.urandom(16 << 20)"
"""The server moves no sandbox to disk that holds less than 8 MiB of its own."""
_SIZES = {"idle": _HELD, "+100 MB": "import os; held = os.urandom(100_000_000)"}
_WAKE: Any = {"on_timeout": "pause", "auto_resume": True}
_COUNTS = (1, 5, 20)
_TO_DISK_S = 120.0
_SETTLE_S = 2.0


def measure_saved(server: Server, samples: Samples, rounds: int, idle: int) -> tuple[dict[str, float], dict[str, str]]:
    """Fills ``samples``; gives MiB for each paused sandbox on disk, and why a row is missing."""
    eventually(lambda: re.search(r"checkpoint\.(works|unavailable)", server.log.read_text()), timeout_s=_TO_DISK_S)
    if "checkpoint.works" not in server.log.read_text():
        return {}, {"memory on disk": "no CRIU works here: cloister checkpoint install, and see cloister doctor"}
    for size, code in _SIZES.items():
        with _sandbox(server) as sandbox:
            sandbox.run_code(code)
            _measure_resumes(server, samples, sandbox, size, rounds)
            _measure_captures(server, samples, sandbox, size, rounds)
    _measure_wakes(server, samples, rounds)
    with _sandbox(server) as sandbox:
        missing = _measure_forks(server, samples, sandbox, rounds)
    return _measure_memory(server, idle), missing


@contextmanager
def _sandbox(server: Server, **options: Any) -> Iterator[Sandbox]:
    sandbox = Sandbox.create(timeout=900, **options, **server.sdk)
    try:
        assert sandbox.run_code("1+1").text == "2"
        yield sandbox
    finally:
        sandbox.kill()


def _to_disk(server: Server, sandbox: Sandbox) -> None:
    """Pause it, and wait until its memory is on disk."""
    sandbox.pause()
    record = server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json"
    eventually(lambda: json.loads(record.read_text())["record"]["pause"]["kind"] == "checkpoint", timeout_s=_TO_DISK_S)


def _measure_resumes(server: Server, samples: Samples, sandbox: Sandbox, size: str, rounds: int) -> None:
    for _ in range(rounds):
        _to_disk(server, sandbox)
        timed(samples, f"resume, from disk, {size}", partial(sandbox.connect, timeout=900))
        assert timed(samples, f"first run, from disk, {size}", partial(sandbox.run_code, "1+1")).text == "2"


def _measure_captures(server: Server, samples: Samples, sandbox: Sandbox, size: str, rounds: int) -> None:
    """A snapshot with memory, and how long the sandbox stood still, as the server says."""
    before = len(_standstills(server))
    for _ in range(rounds):
        made = timed(samples, f"snapshot with memory, {size}", sandbox.create_snapshot)
        Sandbox.delete_snapshot(made.snapshot_id, **server.sdk)
    samples[f"standstill, {size}"] = _standstills(server)[before:]


def _standstills(server: Server) -> list[float]:
    """Milliseconds that sandboxes stood still for a capture, by the server's log."""
    events = (json.loads(line) for line in server.log.read_text().splitlines() if '"memory.captured"' in line)
    return [float(event["frozen_s"]) * 1000 for event in events]


def _measure_wakes(server: Server, samples: Samples, rounds: int) -> None:
    with _sandbox(server, lifecycle=_WAKE) as sandbox:
        sandbox.run_code(_HELD)
        sandbox.commands.run(WEB_SERVER, background=True, cwd="/tmp")
        ask = partial(inside, server, sandbox.sandbox_id, 8000)
        eventually(lambda: ask().status == 200)
        for _ in range(rounds):
            _to_disk(server, sandbox)
            assert timed(samples, "request that wakes it, from disk", ask).status == 200


def _measure_forks(server: Server, samples: Samples, sandbox: Sandbox, rounds: int) -> dict[str, str]:
    """Copies that go on with memory and processes, until the call returns; the first run in the first of them."""
    missing = {}
    for count in _COUNTS:
        for _ in range(max(3, rounds // 4)):
            answer = timed(samples, f"live fork to {count}", partial(_fork, server, sandbox, count))
            assert answer.status == 201, answer
            copies = [one["sandbox"]["sandboxID"] for one in answer.json() if "sandbox" in one]
            if len(copies) < count:
                missing[f"a copy of {count}"] = str(next(one["error"] for one in answer.json() if "error" in one))
            if copies:
                copy = Sandbox.connect(copies[0], **server.sdk)
                assert timed(samples, f"first run, live fork to {count}", partial(copy.run_code, "1+1")).text == "2"
            for one in copies:
                api(server, "DELETE", f"/sandboxes/{one}")
    return missing


def _fork(server: Server, sandbox: Sandbox, count: int) -> Answer:
    return api(server, "POST", f"/sandboxes/{sandbox.sandbox_id}/fork", {"count": count, "timeout": 300})


def _measure_memory(server: Server, count: int) -> dict[str, float]:
    """MiB for each of ``count`` sandboxes: of the host while their memory is on disk, of images, and of restored ones."""
    with _sandbox(server):
        groups = find_tree(instance_of(server))
        time.sleep(_SETTLE_S)
        free, charged = available_mib(), charged_mib(groups)[0]
        sandboxes = [Sandbox.create(timeout=900, **server.sdk) for _ in range(count)]
        for sandbox in sandboxes:
            sandbox.run_code(_HELD)
            _to_disk(server, sandbox)
        time.sleep(_SETTLE_S)
        images = [path for path in (server.data_dir / "node" / "sandboxes").glob("*/memory/*") if path.is_file()]
        found = {"paused_on_disk_mib": (free - available_mib()) / count}
        found["image_mib"] = sum(path.lstat().st_blocks * 512 for path in images) / count / (1 << 20)
        for sandbox in sandboxes:
            sandbox.connect(timeout=900)
        time.sleep(_SETTLE_S)
        found["restored_charged_mib"] = (charged_mib(groups)[0] - charged) / count
        for sandbox in sandboxes:
            sandbox.kill()
    return {name: round(value, 2) for name, value in found.items()}
