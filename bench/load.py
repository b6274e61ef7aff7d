"""Concurrent rows: staggered and burst creations, and sustained rates, each by several client processes at once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import busy_s
from bench.rows import Row, latency_row
from bench.stats import Samples, merge

from framework.server import Server

_LEAD_S = 0.3
_PROCESSES = 4
KINDS = {"sdk": "SDK", "raw": "lean client"}


@dataclass
class Outcome:
    """The samples of all clients. ``busy_s`` is the processor time of the whole host, ``clients_s`` the part that the clients used."""

    samples: Samples = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    wall_s: float = 0.0
    create_wall_s: float = 0.0
    busy_s: float = 0.0
    clients_s: float = 0.0

    def numbers(self) -> dict[str, float]:
        """Numbers that are no percentiles."""
        done = len(self.samples.get("total", []))
        return {
            "success_percent": round(100 * done / self.tried, 2) if self.tried else 0.0,
            "wall_s": round(self.wall_s, 3),
            "client_cpu_ms_each": round(1000 * self.clients_s / max(1, done), 2),
            "host_cpu_ms_each": round(1000 * self.busy_s / max(1, done), 2),
        }

    def note(self) -> str:
        """The errors, most frequent first."""
        return "; ".join(f"{count} times {text}" for text, count in self.errors.most_common(2))


@dataclass(frozen=True)
class Load:
    """The work: sandboxes at ``offsets``, or ``workers`` that loop for ``duration_s``."""

    kind: str
    first: str
    offsets: tuple[float, ...] | None = None
    workers: int = 0
    duration_s: float = 0.0

    def jobs(self) -> list[dict[str, Any]]:
        """One job for each client process; no job is empty."""
        parts = min(_PROCESSES, len(self.offsets) if self.offsets is not None else self.workers)
        common = {"kind": self.kind, "first": self.first, "duration_s": self.duration_s}
        if self.offsets is not None:
            return [{**common, "workers": 0, "offsets": list(self.offsets[part::parts])} for part in range(parts)]
        sizes = [self.workers // parts + (part < self.workers % parts) for part in range(parts)]
        return [{**common, "workers": size, "offsets": None} for size in sizes]


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a client process ended with {process.wait(10)}")
    return line


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def run_load(server: Server, load: Load) -> Outcome:
    """Start the clients, begin at the same time, collect their samples. The caller bounds the time; clients end with the block."""
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        processes = []
        for job in load.jobs():
            argv = [sys.executable, str(Path(__file__).parent / "client.py")]
            process = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            _tell(process, json.dumps({**job, "url": server.url, "api_key": server.api_key}))
            processes.append(process)
        for process in processes:
            assert _said(process) == "ready\n"
        begin, busy = time.monotonic() + _LEAD_S, busy_s()
        for process in processes:
            _tell(process, f"go {begin}")
        if load.offsets is not None:
            for process in processes:
                assert _said(process) == "answered\n"
            outcome.busy_s = busy_s() - busy
            for process in processes:
                _tell(process, "end")
        seen = [json.loads(_said(process)) for process in processes]
        outcome.busy_s = outcome.busy_s or busy_s() - busy
    for part in seen:
        merge(outcome.samples, part["samples"])
        outcome.errors.update(part["errors"])
        outcome.tried += part["tried"]
        outcome.clients_s += part["cpu_s"]
        outcome.create_wall_s = max(outcome.create_wall_s, part["created"] - begin)
        outcome.wall_s = max(outcome.wall_s, part["ended"] - begin)
    return outcome


def burst_rows(server: Server, kind: str, count: int, stagger_s: float) -> list[Row]:
    """``count`` creations (at least one), ``stagger_s`` apart, each with a first command; all are alive at the end."""
    key, name = ("burst", f"burst of {count}") if stagger_s == 0 else ("staggered", f"{count}, one each {stagger_s * 1000:.0f} ms")
    outcome = run_load(server, Load(kind, "command", tuple(number * stagger_s for number in range(count))))
    title = f"{name} ({KINDS[kind]})"
    first = latency_row(
        "concurrent", f"ours.{key}_{count}_{kind}", f"{title}: create → first command", outcome.samples.get("total", []), outcome.note()
    )
    created = outcome.samples.get("create", [])
    numbers = {"success_percent": round(100 * len(created) / outcome.tried, 2), "wall_s": round(outcome.create_wall_s, 3)}
    create = latency_row("concurrent", f"ours.{key}_{count}_create_{kind}", f"{title}: create", created)
    return [first | outcome.numbers(), create | numbers]


def sustained_row(server: Server, kind: str, clients: int, duration_s: float) -> Row:
    """Whole lives (create, first run, kill) by ``clients`` at once; only lives that end in time count."""
    outcome = run_load(server, Load(kind, "code", workers=clients, duration_s=duration_s))
    lives = len(outcome.samples.get("life", []))
    numbers = {**outcome.numbers(), "per_s": round(lives / outcome.wall_s, 2) if outcome.wall_s > 0 else 0.0}
    name = f"{clients} client{'s' if clients > 1 else ''} ({KINDS[kind]}): create → first 1+1 → kill"
    return latency_row("sustained", f"ours.sustained_{kind}_{clients}", name, outcome.samples.get("total", []), outcome.note()) | numbers
