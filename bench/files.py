"""Measures file transfer of one server through the official SDKs: a big file up and down, with peak memory, a list of 10,000 entries."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

Rows = dict[str, dict[str, float]]
_MIB = 1 << 20
_ENTRIES = 10_000
_SPARE_DISK_MIB = 2048
_SPEED_MAY_BE_MIB_S = 10
_JS = Path(__file__).parents[1] / "tests" / "conformance" / "js"


class Noise(io.RawIOBase):
    """A file that repeats a random block; it is never in memory as a whole."""

    block = os.urandom(_MIB)

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read at most a block. Reads whose size is a power of two start at a multiple of it, so blocks follow each other."""
        at = -self._left % _MIB
        data = self.block[at : at + min(self._left, _MIB, size if size > 0 else _MIB)]
        self._left -= len(data)
        return data


def agent_of(sandbox: Sandbox) -> int:
    """The process id of the sandbox's agent on the host."""
    listed = subprocess.run(["pgrep", "-f", r"site/cloister/agent/main\.py"], capture_output=True, text=True, check=True)
    return next(int(pid) for pid in listed.stdout.split() if sandbox.sandbox_id in Path(f"/proc/{pid}/cgroup").read_text())


def peak_mib(pid: int) -> float:
    """Peak memory of a process since the last call."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(found[1]) / 1024


@contextlib.contextmanager
def floor(kind: str, directory: Path) -> Iterator[str]:
    """The URL of a server that writes uploads to a file and does nothing else."""
    path = directory / "floor"
    command = [sys.executable, str(Path(__file__).with_name("upload_floor.py")), kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/files"
        finally:
            process.kill()
            path.unlink(missing_ok=True)


class Transfers:
    """One sandbox, and a file of ``size`` bytes that is uploaded and downloaded."""

    def __init__(self, server: Server, size: int, rounds: int) -> None:
        self._server = server
        self._size = size
        self._rounds = rounds
        self._timeout_s = size // (_SPEED_MAY_BE_MIB_S * _MIB) + 60
        self._sandbox = Sandbox.create(timeout=self._timeout_s * rounds * 10, **server.sdk)
        self._processes = {"agent": agent_of(self._sandbox), "api": server.child("api")}

    def run(self, rows: Rows) -> None:
        """Measure all rows."""
        with floor("socket", self._server.data_dir) as raw, floor("aiohttp", self._server.data_dir) as plain:
            ways: dict[str, Callable[[], object]] = {
                "floor: pipe": self._copy_locally,
                "floor: socket to file": lambda: self._post(raw),
                "floor: aiohttp form to file": lambda: self._post(plain),
                "upload (octet-stream)": lambda: self._upload(octet_stream=True),
                "upload (multipart)": lambda: self._upload(octet_stream=False),
                "download": self._download,
            }
            self._measure(ways, rows)
        if shutil.which("node") is not None and (_JS / "node_modules").is_dir():
            self._measure_javascript(rows)
        self._sandbox.kill()

    def _measure(self, ways: dict[str, Callable[[], object]], rows: Rows) -> None:
        """The variants take turns, so that other load affects all of them."""
        taken: dict[str, list[float]] = {name: [] for name in ways}
        peaks: dict[str, dict[str, float]] = {name: {} for name in ways}
        for _ in range(self._rounds):
            for name, action in ways.items():
                self._peaks()
                began = time.perf_counter()
                action()
                taken[name].append(time.perf_counter() - began)
                peaks[name] = {process: max(peaks[name].get(process, 0), peak) for process, peak in self._peaks().items()}
                if name.startswith("upload"):
                    self._check()
        for name, times in taken.items():
            self._note(rows, name, times, {} if name.startswith("floor") else peaks[name])

    def _measure_javascript(self, rows: Rows) -> None:
        taken: dict[str, list[float]] = {"upload": [], "download": []}
        self._peaks()
        for _ in range(self._rounds):
            command = ["node", "transfer.mjs", self._sandbox.sandbox_id, "js", str(self._size)]
            environ = {**os.environ, **self._server.environ}
            done = subprocess.run(command, cwd=_JS, env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=2 * self._timeout_s)
            for name, seconds in json.loads(done.stdout).items():
                taken[name].append(seconds)
            self._sandbox.files.remove("js")
        peaks = self._peaks()
        for name, times in taken.items():
            self._note(rows, f"{name} (JavaScript)", times, peaks)

    def _note(self, rows: Rows, name: str, taken: list[float], peaks: dict[str, float]) -> None:
        rate = self._size / 1e6 / sorted(taken)[len(taken) // 2]
        peak_rows = {f"{process}_peak_mib": round(peak, 1) for process, peak in peaks.items()}
        rows[name] = {"mb_per_s": round(rate), "n": len(taken), **peak_rows}
        told = "".join(f"   {process} {peak:6.1f} MiB" for process, peak in peaks.items())
        print(f"{name:28}{rate:9.0f} MB/s{told}", flush=True)

    def _peaks(self) -> dict[str, float]:
        return {name: peak_mib(pid) for name, pid in self._processes.items()}

    def _copy_locally(self) -> None:
        """The same bytes through a pipe between two processes."""
        subprocess.run(f"head -c {self._size} /dev/zero | cat > /dev/null", shell=True, check=True)

    def _post(self, url: str) -> None:
        """A form with one file, by the HTTP client that the SDK itself uses."""
        client = self._sandbox.files._envd_api  # noqa: SLF001 - the floor uses the SDK's own client
        client.post(url, files=[("file", ("big", Noise(self._size)))], timeout=None).raise_for_status()

    def _upload(self, *, octet_stream: bool) -> None:
        self._sandbox.files.write("big", Noise(self._size), use_octet_stream=octet_stream)

    def _download(self) -> None:
        """Download as a stream and compare each byte."""
        twice, at = memoryview(Noise.block * 2), 0
        with self._sandbox.files.read("big", format="stream") as stream:
            for chunk in stream:
                view = memoryview(chunk)
                while view:
                    piece = view[:_MIB]
                    assert piece == twice[at % _MIB : at % _MIB + len(piece)], f"the bytes after {at} are others"
                    at, view = at + len(piece), view[len(piece) :]
        assert at == self._size

    def _check(self) -> None:
        """Check that the written bytes are those that were sent."""
        wanted, noise = hashlib.sha256(), Noise(self._size)
        while block := noise.read():
            wanted.update(block)
        seen = self._sandbox.commands.run("sha256sum big", timeout=self._timeout_s).stdout
        assert seen.split()[0] == wanted.hexdigest()


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
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the big file; 5120 is 5 GiB")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "files.json")
    args = parser.parse_args()
    rows: Rows = {}
    disk_mib = 2 * args.size + _SPARE_DISK_MIB  # a replaced file exists twice for a moment
    with running_server("--default-disk-mib", str(disk_mib)) as server:
        Transfers(server, args.size * _MIB, args.rounds).run(rows)
        measure_lists(server, rows, args.rounds * 3)
    args.output.parent.mkdir(exist_ok=True)
    told = {"host": platform.platform(), "at": time.time(), "size_mib": args.size, "rows": rows}
    args.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
