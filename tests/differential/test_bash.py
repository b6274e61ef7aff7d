"""bash cells against ``bash file``: what hundreds of small programs print, their messages, their status, and that the next cell works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b_code_interpreter import Sandbox

from framework.differential import Program, programs
from framework.oracle import Outcome, plain_outcomes
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.timeout(900)]

ON_PURPOSE = {
    "control: onecmd": "set -t ends the shell that reads the cells, not the cell",
    "control: all descriptors closed": "bash's copies of its streams are among them: the cell ends, and a new bash takes up the state",
    "shell: ulimit": "a bound below the descriptors of the driver: bash says so, and a new bash takes up the state",
    "shell: few descriptors left": "as above",
}
"""Programs that differ, and why. docs/languages.md says the same."""
AFTER = "unset -f builtin; \\builtin printf 'next\\n'"


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all programs."""
    made = Sandbox.create(timeout=600, **server.sdk)
    yield made
    made.kill()


def comparable(outcome: Outcome) -> Outcome:
    """Without what differs by nature: the name of the file, ``eval:`` in syntax errors, the depth of set -x, process ids."""
    output, text = (
        re.sub(r"^\++ ", "+ ", re.sub(r"/tmp/oracle/program\d+(?!\.)", "bash", text), flags=re.MULTILINE)
        for text in (outcome.stdout, outcome.stderr)
    )
    text = re.sub(r"(line \d+): +\d+ (Killed|Terminated)", r"\1: PID \2", text.replace("bash: eval: line", "bash: line"))
    return Outcome(outcome.status, output, text)


def as_cell(sandbox: Sandbox, program: Program, number: int) -> tuple[Outcome, str]:
    """Result of the program as a cell of a new context, and output of the next cell."""
    place = f"/tmp/cells/{number}"
    sandbox.files.make_dir(place)
    context = sandbox.create_code_context(language="bash", cwd=place)
    done = sandbox.run_code(program.code, context=context, timeout=60)
    status = 0 if done.error is None else int(done.error.value) if done.error.name == "ExitStatus" else -1
    after = sandbox.run_code(AFTER, context=context, timeout=60)
    sandbox.remove_code_context(context)
    return Outcome(status, "".join(done.logs.stdout), "".join(done.logs.stderr)), "".join(after.logs.stdout)


def test_cells_do_what_files_do(sandbox: Sandbox) -> None:
    """Each program prints, says and returns as a cell what it does as a file, and the cell after it runs."""
    wanted = programs("bash")
    expected = plain_outcomes(sandbox, ["bash"], wanted)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda number: as_cell(sandbox, wanted[number], number), range(len(wanted))))
    differ = {}
    for program, plain, (outcome, after) in zip(wanted, expected, outcomes, strict=True):
        if comparable(plain) != comparable(outcome) or (after != "next\n" and "aliases" not in program.name):
            differ[str(program)] = (comparable(plain), comparable(outcome), after)
    assert differ.keys() == ON_PURPOSE.keys(), {name: differ.get(name) for name in differ.keys() ^ ON_PURPOSE.keys()}
