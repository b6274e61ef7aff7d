"""Programs without Cloister: the plain interpreter runs each as a file, in the sandbox."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from e2b_code_interpreter import Sandbox

from framework.differential import Program

__all__ = ["Outcome", "plain_outcomes"]

_PLACE = "/tmp/oracle"
_RUNNER = """
import concurrent.futures, json, os, subprocess, sys
command, cwd, names = sys.argv[1:-2], sys.argv[-2], json.loads(sys.argv[-1])
def run(name):
    work = cwd or f"/tmp/oracle/{name}.work"
    os.makedirs(work, exist_ok=True)
    with open("/dev/null") as nothing:
        done = subprocess.run([*command, f"/tmp/oracle/{name}"], cwd=work, stdin=nothing, capture_output=True, timeout=60)
    return [done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    json.dump(list(pool.map(run, names)), open("/tmp/oracle/outcomes.json", "w"))
"""


@dataclass(frozen=True)
class Outcome:
    """Exit status of a program (128 + n after signal n) and its output."""

    status: int
    stdout: str
    stderr: str


def plain_outcomes(sandbox: Sandbox, command: Sequence[str], programs: Sequence[Program], *, cwd: str = "") -> list[Outcome]:
    """Run every program as ``command <its file>``, in ``cwd`` or in a directory of its own.

    Messages that name the file have its whole path, which begins with /tmp/oracle/.
    """
    names = [f"program{number}" for number in range(len(programs))]
    files = [{"path": f"{_PLACE}/{name}", "data": program.code} for name, program in zip(names, programs, strict=True)]
    sandbox.files.write_files([*files, {"path": f"{_PLACE}/runner.py", "data": _RUNNER}])
    sandbox.commands.run(shlex.join(["python3", f"{_PLACE}/runner.py", *command, cwd, json.dumps(names)]), timeout=600)
    outcomes = json.loads(sandbox.files.read(f"{_PLACE}/outcomes.json"))
    return [Outcome(status if status >= 0 else 128 - status, out, err) for status, out, err in outcomes]
