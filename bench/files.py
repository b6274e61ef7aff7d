"""Measures file transfer of one server through the official SDK: a gigabyte up and down, with peak memory, and a list of 10,000 entries."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

Rows = dict[str, dict[str, float]]
_BIG_BYTES = 1 << 30
_ENTRIES = 10_000


class Noise(io.RawIOBase):
    """A file of random bytes that is never in memory as a whole."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._block = os.urandom(1 << 20)

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most a block."""
        data = self._block[: min(self._left, 1 << 20, size if size > 0 else 1 << 20)]
        self._left -= len(data)
        return data


def agent_of(sandbox: Sandbox) -> int:
    """The process id of the sandbox's agent on the host."""
    listed = subprocess.run(["pgrep", "-f", r"site/cloister/agent/main\.py"], capture_output=True, text=True, check=True)
    return next(int(pid) for pid in listed.stdout.split() if sandbox.sandbox_id in Path(f"/proc/{pid}/cgroup").read_text())


def peak_mib(pid: int) -> float:
    """The most memory that a process had in use since the last call."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(found[1]) / 1024


def download(sandbox: Sandbox) -> None:
    """Read the big file as a stream."""
    with sandbox.files.read("big", format="stream") as stream:
        assert sum(map(len, stream)) == _BIG_BYTES


def copy_locally() -> None:
    """The floor: the same bytes through a pipe between two processes."""
    subprocess.run(f"head -c {_BIG_BYTES} /dev/zero | cat > /dev/null", shell=True, check=True)


def measure_transfers(server: Server, rows: Rows, rounds: int) -> None:
    """A gigabyte each way, by each kind of request."""
    sandbox = Sandbox.create(timeout=600, **server.sdk)
    agent, api = agent_of(sandbox), server.child("api")
    actions: dict[str, Callable[[], object]] = {
        "floor: pipe": copy_locally,
        "upload (octet-stream)": lambda: sandbox.files.write("big", Noise(_BIG_BYTES), use_octet_stream=True),
        "upload (multipart)": lambda: sandbox.files.write("big", Noise(_BIG_BYTES), use_octet_stream=False),
        "download": lambda: download(sandbox),
    }
    for name, action in actions.items():
        peak_mib(agent), peak_mib(api)
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            action()
            taken.append(time.perf_counter() - began)
        rate = _BIG_BYTES / 1e6 / sorted(taken)[len(taken) // 2]
        rows[name] = {
            "mb_per_s": round(rate),
            "agent_peak_mib": round(peak_mib(agent), 1),
            "api_peak_mib": round(peak_mib(api), 1),
            "n": rounds,
        }
        print(f"{name:24}{rate:9.0f} MB/s   agent {rows[name]['agent_peak_mib']:6.1f} MiB   api {rows[name]['api_peak_mib']:6.1f} MiB")
    sandbox.kill()


def measure_lists(server: Server, rows: Rows, rounds: int) -> None:
    """A directory of many files."""
    sandbox = Sandbox.create(timeout=600, **server.sdk)
    sandbox.run_code(f"import os\nos.makedirs('/home/user/many')\nfor i in range({_ENTRIES}): open(f'/home/user/many/{{i}}', 'w').close()")
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert len(sandbox.files.list("many")) == _ENTRIES
        taken.append((time.perf_counter() - began) * 1000)
    rows["list of 10,000"] = {"p50_ms": round(sorted(taken)[len(taken) // 2], 1), "max_ms": round(max(taken), 1), "n": rounds}
    print(f"{'list of 10,000':24}{rows['list of 10,000']['p50_ms']:9.0f} ms p50")
    sandbox.kill()


def main() -> None:
    """Measure, print, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "files.json")
    args = parser.parse_args()
    rows: Rows = {}
    with running_server() as server:
        measure_transfers(server, rows, args.rounds)
        measure_lists(server, rows, args.rounds * 3)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps({"host": platform.platform(), "at": time.time(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
