"""Measures volumes of one server: creations with a mount, throughput and small files beside the sandbox's own disk, and the content API."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b import Sandbox, Volume

from framework.server import Server, running_server
from framework.starts import creation_of
from framework.volumes import volume_of_size

Rows = dict[str, dict[str, float]]
_MIB = 1 << 20
_FILES = 2_000
_SETTLE_S = 1.5
_WRITE = """
block = os.urandom(1 << 20)
with open({path!r}, 'wb') as file:
    for _ in range({mib}): file.write(block)
    os.fsync(file.fileno())
"""
_READ = """
fd = os.open({path!r}, os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
while os.read(fd, 1 << 20): pass
"""
_MANY = """
os.makedirs({path!r})
for n in range({count}):
    with open(f'{path}/{{n}}', 'w') as file: file.write('x' * 100)
os.sync()
"""
_NONE = "shutil.rmtree({path!r})"


def note(rows: Rows, name: str, taken: list[float], **more: float) -> None:
    """Add a row of times in seconds, and print it."""
    ordered = sorted(taken)
    rows[name] = {"p50_ms": round(ordered[len(ordered) // 2] * 1000, 1), "min_ms": round(ordered[0] * 1000, 1), "n": len(taken), **more}
    print(f"{name:44}{rows[name]['p50_ms']:9.1f} ms p50{rows[name]['min_ms']:9.1f} ms min   {more or ''}", flush=True)


def measure_creations(server: Server, volume: Volume, other: Volume, rows: Rows, rounds: int) -> None:
    """Creations from the pool: without a volume, with one that a sandbox has, and with one that none has; they take turns."""
    ways: dict[str, dict[str, Volume | str]] = {
        "create": {},
        "create, volume in use": {"/v": volume.name},
        "create, volume not in use": {"/v": other.name},
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with Sandbox.create("base", timeout=3600, volume_mounts={"/v": volume.name}, **server.sdk):
        for _ in range(rounds):
            for name, mounts in ways.items():
                for _ in range(20):
                    time.sleep(_SETTLE_S)  # the pool is filled
                    began = time.perf_counter()
                    made = Sandbox.create("base", timeout=600, volume_mounts=mounts, **server.sdk)
                    seconds = time.perf_counter() - began
                    was_ready = creation_of(server, made)["made_ahead"]
                    made.kill()
                    if was_ready:
                        taken[name].append(seconds)
                        break
    for name, times in taken.items():
        note(rows, name, times)


def measure_files(server: Server, volume: Volume, rows: Rows, rounds: int, mib: int) -> None:
    """The same programs on the volume and on the sandbox's own disk, in turns."""
    with Sandbox.create("base", timeout=3600, volume_mounts={"/v": volume.name}, **server.sdk) as sandbox:

        def run(code: str, **words: Any) -> float:
            script = f"import os, shutil, time\nbegan = time.perf_counter()\n{code.format(**words)}\nprint(time.perf_counter() - began)"
            sandbox.files.write("/tmp/measure.py", script)
            return float(sandbox.commands.run("python3 /tmp/measure.py", timeout=600).stdout)

        taken: dict[str, list[float]] = {}
        for _ in range(rounds):
            for where, place in (("disk", "/home/user"), ("volume", "/v")):
                big, many = f"{place}/big", f"{place}/many"
                taken.setdefault(f"write {mib} MiB, {where}", []).append(run(_WRITE, path=big, mib=mib))
                taken.setdefault(f"read {mib} MiB, {where}", []).append(run(_READ, path=big))
                taken.setdefault(f"{_FILES} small files, {where}", []).append(run(_MANY, path=many, count=_FILES))
                taken.setdefault(f"remove {_FILES} files, {where}", []).append(run(_NONE, path=many))
        for name, times in taken.items():
            more = {"mb_per_s": round(mib * _MIB / 1e6 / sorted(times)[len(times) // 2])} if "MiB" in name else {}
            note(rows, name, times, **more)


def measure_content(volume: Volume, rows: Rows, rounds: int, mib: int) -> None:
    """The content API: a large file up and down, and many small ones."""
    data = os.urandom(mib * _MIB)
    ways: dict[str, Callable[[], object]] = {
        f"content API, upload {mib} MiB": lambda: volume.write_file("/content", data, force=True),
        f"content API, download {mib} MiB": lambda: volume.read_file("/content", format="bytes"),
        "content API, 100 small files": lambda: [volume.write_file(f"/small/{n}", "x" * 100, force=True) for n in range(100)],
    }
    volume.make_dir("/small")
    for name, action in ways.items():
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            action()
            taken.append(time.perf_counter() - began)
        note(rows, name, taken, **({"mb_per_s": round(mib * _MIB / 1e6 / sorted(taken)[rounds // 2])} if "MiB" in name else {}))


def main() -> None:
    """Measure, print, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the large file")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "volumes.json")
    args = parser.parse_args()
    rows: Rows = {}
    load = os.getloadavg()[0]
    with running_server() as server, ExitStack() as stack:
        volume, other = (stack.enter_context(volume_of_size(server, 4 * args.size)) for _ in range(2))
        measure_creations(server, volume, other, rows, args.rounds * 3)
        measure_files(server, volume, rows, args.rounds, args.size)
        measure_content(volume, rows, args.rounds, args.size)
    args.output.parent.mkdir(exist_ok=True)
    told = {"host": platform.platform(), "at": time.time(), "size_mib": args.size, "load": [round(load, 1), round(os.getloadavg()[0], 1)]}
    args.output.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
