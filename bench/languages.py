"""Measures the first run of each language through the official SDK, beside floors in the same sandboxes. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b_code_interpreter import Sandbox

from framework.server import running_server

Samples = dict[str, list[float]]
CODE = {
    "python": "1 + 1",
    "javascript": "1 + 1",
    "typescript": "const n: number = 1; n + 1",
    "r": "1 + 1",
    "java": "1 + 1",
    "bash": "echo 2",
}
PID = {
    "python": "import os; os.getpid()",
    "javascript": "process.pid",
    "typescript": "process.pid",
    "r": "cat(Sys.getpid())",
    "java": "ProcessHandle.current().pid()",
    "bash": "echo $PPID",
}
"""Prints the kernel's process id; for bash, the driver is the parent of the shell."""
FLOORS = {
    "python": ["python3", "-c", "0"],
    "javascript": ["node", "-e", "0"],
    "typescript": ["node", "-e", "0"],
    "r": ["Rscript", "-e", "1"],
    "java": ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", "/tmp", "Hello"],
    "bash": ["bash", "-c", ":"],
}
_HELLO = "public class Hello { public static void main(String[] a) { System.out.println(1); } }"
_TIMES = """
import json, subprocess, time
def run():
    began = time.perf_counter()
    subprocess.run({argv!r}, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000
run()
print(json.dumps([run() for _ in range({times})]))
"""
_MEMORY = """
import json, os, re, time
parents = {{}}
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        fields = open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()
    except OSError:
        continue
    parents[int(name)] = int(fields[1])
tree = {{{pid}}}
while more := {{pid for pid, parent in parents.items() if parent in tree}} - tree:
    tree |= more
sums = {{"Pss": 0, "Private_Dirty": 0}}
for pid in tree:
    text = open(f"/proc/{{pid}}/smaps_rollup").read()
    for name in sums:
        sums[name] += int(re.search(rf"^{{name}}: +(\\d+)", text, re.M)[1])
sums["cpu_ms"] = sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in tree) / 1e6
print(json.dumps(sums))
"""


def timed(samples: Samples, name: str, action: Callable[[], Any]) -> Any:
    """Run ``action`` and store its milliseconds under ``name``."""
    began = time.perf_counter()
    result = action()
    samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    return result


def median(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


def inside(sandbox: Sandbox, program: str) -> Any:
    """The JSON output of a Python program, run as root inside."""
    sandbox.files.write("/tmp/measure.py", program)
    return json.loads(sandbox.commands.run("python3 -I /tmp/measure.py", user="root", timeout=120).stdout)


def measure_once(samples: Samples, options: dict[str, Any], language: str) -> None:
    """Measure one sandbox: the first run in the language's default context, the kernel's cost so far, warm runs, the floor."""
    with Sandbox.create(timeout=300, **options) as sandbox:
        sandbox.run_code("1")  # start the agent and its Python kernel, and open the connection: Python has no first run here
        first = timed(samples, "first run", lambda: sandbox.run_code(CODE[language], language=language))
        assert first.error is None, first.error
        told = sandbox.run_code(PID[language], language=language)
        pid = int(told.text or "".join(told.logs.stdout))
        memory = inside(sandbox, _MEMORY.format(pid=pid))
        samples.setdefault("memory", []).append(memory["Pss"] / 1024)
        samples.setdefault("private memory", []).append(memory["Private_Dirty"] / 1024)
        samples.setdefault("cpu", []).append(memory["cpu_ms"])
        for _ in range(10):
            timed(samples, "warm run", lambda: sandbox.run_code(CODE[language], language=language))
        if language == "java":
            sandbox.files.write("/tmp/Hello.java", _HELLO)
            sandbox.commands.run("javac -d /tmp /tmp/Hello.java", timeout=60)
        samples.setdefault("floor", []).extend(inside(sandbox, _TIMES.format(argv=FLOORS[language], times=3)))


def main() -> None:
    """Measure the languages in turns, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="sandboxes for each language")
    parser.add_argument("--languages", default=",".join(CODE), help="comma-separated")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "languages.json")
    args = parser.parse_args()
    wanted = args.languages.split(",")
    samples: dict[str, Samples] = {language: {} for language in wanted}
    with running_server() as server:
        for _ in range(args.rounds):
            for language in wanted:
                measure_once(samples[language], server.sdk, language)
    rows = {language: {name: round(median(values), 2) for name, values in one.items()} for language, one in samples.items()}
    columns = ["floor", "first run", "cpu", "warm run", "memory", "private memory"]
    print(f"{'medians: ms, MiB':18}" + "".join(f"{name:>16}" for name in columns) + f"{'first / floor':>16}")
    for language, row in rows.items():
        print(f"{language:18}" + "".join(f"{row[name]:16.1f}" for name in columns) + f"{row['first run'] / row['floor']:16.1f}")
    args.output.parent.mkdir(exist_ok=True)
    document = {"host": platform.platform(), "at": time.time(), "rounds": args.rounds, "rows": rows}
    args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
