"""Floors: the cost of the host and of bare libraries for the smallest work of a sandbox, measured in the same run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.installed import LISTS, MissingError, PeerHome
from bench.rows import Row, latency_row
from bench.stats import Samples, timed

_SECTION = "floors"
_NAMESPACES = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork")
_LIMIT_S = 30


@dataclass(frozen=True)
class Size:
    """Number of rounds of each floor."""

    rounds: int
    starts: int


def _check(argv: list[str], expected: str) -> None:
    """Run the program once and check its output. Raises: MissingError with its message."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S, stdin=subprocess.DEVNULL)
    if done.returncode or expected not in done.stdout:
        raise MissingError(f"{argv[0]} ended with {done.returncode}: {(done.stderr.strip() or done.stdout.strip())[-300:]}")


def _spawn(argv: list[str]) -> None:
    """The minimal cost of starting a program and waiting for its end; ``argv[0]`` is a path. Raises: MissingError."""
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if status:
        raise MissingError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")


def program_row(section: str, key: str, name: str, argv: list[str], rounds: int) -> Row:
    """The run time of a program. The first round does not count. A Python program must print ``2``."""
    samples: Samples = {}
    expected = "2" if argv[-1].startswith("print") else ""
    try:
        argv = [shutil.which(argv[0]) or argv[0], *argv[1:]]
        _check(argv, expected)
        for _ in range(rounds):
            timed(samples, key, lambda: _spawn(argv))
    except (MissingError, OSError, subprocess.TimeoutExpired) as error:
        return Row(section, key, name, reason=str(error))
    return latency_row(section, key, name, samples[key])


def measure_processes(size: Size) -> list[Row]:
    """Processes of the host, bare and in namespaces."""
    isolated = ["unshare", *_NAMESPACES, "/bin/true"]
    code = [sys.executable, "-I", "-c", "print(1+1)"]
    return [
        program_row(_SECTION, "floor.fork_exec", "fork + exec of /bin/true", ["/bin/true"], size.rounds),
        program_row(_SECTION, "floor.isolated_fork", "isolated fork: unshare of 7 namespaces + exec", isolated, size.rounds),
        program_row(_SECTION, "floor.python", "python3 -c 'print(1+1)'", code, size.rounds),
    ]


def measure_ipykernel(home: PeerHome, size: Size) -> list[Row]:
    """A bare ``jupyter_client`` with ipykernel, without any server."""
    names = {"start": "jupyter_client + ipykernel: start → first 1+1", "warm": "jupyter_client + ipykernel: warm 1+1"}
    try:
        python = home.environment("jupyter") / "python"
        argv = [str(python), str(LISTS / "ipykernel_floor.py"), str(size.starts), str(size.rounds)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20 + 5 * size.starts, cwd=Path("/"))
        found = json.loads(done.stdout)
    except (MissingError, subprocess.SubprocessError, ValueError) as error:
        return [Row(_SECTION, f"floor.ipykernel_{key}", name, reason=str(error)) for key, name in names.items()]
    return [latency_row(_SECTION, f"floor.ipykernel_{key}", name, found[key]) for key, name in names.items()]
