"""Measures every runtime by the same operations in one run, beside bare runsc and bubblewrap. See README.md."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import look_at_load
from bench.serverside import instance_of
from bench.stats import Samples, percentile, summarise, timed, write_results
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from framework.server import Server, running_server
from framework.tiers import TIERS, create_on
from framework.waiting import eventually

_STORE = Path("/var/lib/cloister/store")
_BWRAP = ("bwrap", "--unshare-all", "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc")
_BOOT_S, _SETTLE_S = 300, 2.0
_FIRST = {
    "python": "1 + 1",
    "javascript": "1 + 1",
    "typescript": "const n: number = 1; n + 1",
    "r": "1 + 1",
    "java": "System.out.print(1 + 1);",
    "bash": "echo 2",
}
_WORK = {
    "work: 20,000 stat": "import os\nfor _ in range(20000): os.stat('/etc/passwd')",
    "work: 5,000 open, read, close": "for _ in range(5000):\n with open('/etc/passwd') as f: f.read()",
    "work: 50 fork and exec": "import subprocess\nfor _ in range(50): subprocess.run(['/bin/true'])",
    "work: fresh pages, 256 MiB": "held = bytearray(b'x') * (256 << 20)",
    "work: matrix product and sort (numpy)": "import numpy\na = numpy.random.rand(900, 900)\na @ a @ a @ a\nnumpy.sort(a.ravel())",
}
"""Programs, which are timed inside without the start of their interpreter."""
_TIMER = "import time\nbegan = time.perf_counter()\nexec({code!r})\nprint((time.perf_counter() - began) * 1000)"


@dataclass(frozen=True)
class Tier:
    """A runtime on a server of its own."""

    name: str
    server: Server
    samples: Samples
    rounds: int

    def new(self) -> Sandbox:
        """One that was not made ahead: a request that names its runtime gets a new one."""
        return create_on(self.server, self.name)

    def timed(self, name: str, action: Callable[[], Any]) -> Any:
        """Run ``action``, store its milliseconds, and give its result."""
        return timed(self.samples, name, action)


def images_of(server: Server) -> list[Path]:
    """The whole images of booted templates."""
    return [path for path in (server.data_dir / "node" / "gvisor").glob("*") if path.suffix != ".partial"]


def measure_creations(tier: Tier) -> None:
    """From the pool, new (on gVisor: restored from the image), and on gVisor cold, each to the first run."""
    for _ in range(tier.rounds):
        time.sleep(_SETTLE_S)  # the server has made another one by then
        made = tier.timed("create from the pool", partial(Sandbox.create, **tier.server.sdk))
        tier.timed("its first run_code", partial(made.run_code, "1+1"))
        made.kill()
    for _ in range(tier.rounds):
        made = tier.timed("create anew (gVisor: restore)", tier.new)
        tier.timed("first run_code of that", partial(made.run_code, "1+1"))
        tier.timed("kill", made.kill)
    for _ in range(3 if tier.name == "gvisor" else 0):
        eventually(lambda: images_of(tier.server), _BOOT_S)
        for path in images_of(tier.server):
            shutil.rmtree(path)
        tier.timed("create cold", tier.new).kill()


def measure_languages(tier: Tier) -> None:
    """First and warm runs by language."""
    for language, code in _FIRST.items():
        for _ in range(max(3, tier.rounds // 4)):
            sandbox = tier.new()
            run = partial(sandbox.run_code, code, language=language)
            tier.timed(f"first run: {language}", run)
            for _ in range(3):
                tier.timed(f"warm run: {language}", run)
            sandbox.kill()


def measure_lifecycle(tier: Tier) -> None:
    """Commands, pause, resume, checkpoint and fork of one sandbox with 50 MB in its kernel."""
    sandbox = tier.new()
    sandbox.run_code("import os; held = os.urandom(50_000_000)")
    options: dict[str, Any] = {} if tier.name == "gvisor" else {"api_headers": {"X-Fork-Memory": "false"}}  # with memory it needs CRIU
    for _ in range(tier.rounds):
        tier.timed("commands.run('true')", lambda: sandbox.commands.run("true"))
        tier.timed("pause", sandbox.pause)
        tier.timed("resume", lambda: Sandbox.connect(sandbox.sandbox_id, **tier.server.sdk))
    for _ in range(3):
        tier.timed("snapshot", sandbox.create_snapshot)
        for copy in tier.timed("fork (namespace: files alone)", partial(sandbox.fork, **options)):
            Sandbox.kill(copy.sandbox_id, **tier.server.sdk)
    sandbox.kill()


def measure_work(tier: Tier) -> None:
    """Programs that make many system calls, and one that computes."""
    sandbox = tier.new()
    for name, code in _WORK.items():
        sandbox.files.write("/home/user/work.py", _TIMER.format(code=code))
        for _ in range(5):
            tier.samples.setdefault(name, []).append(float(sandbox.commands.run("python3 work.py").stdout))
    sandbox.kill()


def measure_bare(samples: Samples, prefix: list[str], rounds: int) -> None:
    """The host's Python in a program that isolates: its start, and the same work where the host has what it needs."""
    python = [*prefix, sys.executable, "-I", "-c"]
    for _ in range(rounds):
        timed(samples, "create anew (gVisor: restore)", lambda: subprocess.run([*python, "1+1"], check=True, capture_output=True))
    for name, code in _WORK.items():
        for _ in range(5):
            done = subprocess.run([*python, _TIMER.format(code=code)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                samples.setdefault(name, []).append(float(done.stdout))


def measure_tier(name: str, rounds: int) -> Samples:
    """All rows of one runtime, and the memory of an idle sandbox."""
    samples: Samples = {}
    with running_server("--default-runtime", name) as server:
        tier = Tier(name, server, samples, rounds)
        Sandbox.create(**server.sdk).kill()
        if name == "gvisor":
            eventually(lambda: images_of(server), _BOOT_S)
        for measure in (measure_languages, measure_lifecycle, measure_work, measure_creations):
            measure(tier)
            print(f"{name}: {measure.__name__} done", flush=True)
        idle = tier.new()
        idle.run_code("1+1")
        samples["memory of an idle one (MiB)"] = [find_tree(instance_of(server)).usage(idle.sandbox_id).mem_used_bytes / (1 << 20)]
    return samples


def print_table(columns: dict[str, Samples]) -> None:
    """Medians in milliseconds, and p99 in brackets, as Markdown."""
    names = list(dict.fromkeys(name for samples in columns.values() for name in samples))
    print(f"| p50 (p99), ms | {' | '.join(columns)} |\n| --- | {' | '.join('---' for _ in columns)} |")
    for name in names:
        cells = [f"{percentile(s[name], 0.5):.3g} ({percentile(s[name], 0.99):.3g})" if s.get(name) else "" for s in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measure, print, and write bench/results/tiers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runsc", type=Path, default=_STORE / "gvisor" / "runsc")
    args = parser.parse_args()
    before = look_at_load()
    columns = {name: measure_tier(name, args.rounds) for name in TIERS}
    bare = {"bare runsc do": [str(args.runsc), "--network=none", "--ignore-cgroups", "do", "--quiet"], "bubblewrap": list(_BWRAP)}
    for name, prefix in bare.items():
        if shutil.which(prefix[0]) is not None:
            measure_bare(columns.setdefault(name, {}), prefix, min(10, args.rounds))
    print_table(columns)
    rows = {name: {row: summarise(values) for row, values in samples.items()} for name, samples in columns.items()}
    write_results(Path(__file__).parent / "results" / "tiers.json", rows, load=vars(before))


if __name__ == "__main__":
    main()
