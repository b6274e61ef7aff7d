"""Java programs as cells against ``javac -g`` and ``java``: output of both streams in order, traces, exit codes, compiler errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Execution, Sandbox

from framework.differential import Program, programs
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.timeout(900)]

PROGRAMS = programs("java")
ON_PURPOSE = {
    "students: two sum without imports": ("a cell has the context's imports where it lacks names", "[0, 1]\n"),
    "students: several public classes in one cell": ("a cell may hold the text of several files", "Eve\n"),
}
"""Differences, their reasons, and the output of the cell. docs/languages.md lists the same."""
_ORACLE = Path(__file__).parents[1] / "framework" / "programs" / "java_oracle.py"
_TYPE = re.compile(r"^(?:@\w+(?:\(.*?\))? )*((?:[\w-]+ )*)(?:class|interface|enum|record) (\w+)", re.MULTILINE)


def file_of(code: str) -> str:
    """The file that javac wants a program in: that of the first public type with ``main``, else of the first."""
    heads = list(_TYPE.finditer(code))
    ends = [*(head.start() for head in heads[1:]), len(code)]
    mains = [head for head, end in zip(heads, ends, strict=True) if " main(" in code[head.start() : end]]
    return next((head for head in mains if "public " in head[1]), (mains or heads)[0])[2] + ".java"


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """The sandbox of both: all cells run in its one Java context, in order."""
    made = Sandbox.create(timeout=900, **server.sdk)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def oracle(sandbox: Sandbox) -> dict[str, tuple[str, int]]:
    """Output and exit code of each program under javac and java."""
    sandbox.files.write("/tmp/oracle.py", _ORACLE.read_text(encoding="utf-8"))
    sandbox.files.write("/tmp/programs.json", json.dumps([(file_of(program.code), program.code) for program in PROGRAMS]))
    sandbox.commands.run("python3 /tmp/oracle.py < /tmp/programs.json > /tmp/answers.json", timeout=900)
    answers = json.loads(sandbox.files.read("/tmp/answers.json"))
    return {str(program): tuple(answer) for program, answer in zip(PROGRAMS, answers, strict=True)}


def as_shell(execution: Execution, output: str) -> tuple[str, int]:
    """A run as a shell would see it: its error is what java or javac prints at the end, with their exit codes."""
    error = execution.error
    if error is None:
        return output, 0
    if error.name == "SystemExit":
        return output, int(error.value.removeprefix("exit code "))
    start = "" if error.name == "CompilationError" else 'Exception in thread "main" '
    return f"{output}{start}{error.traceback}\n", 1


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_program_does_as_javac_and_java_have_it(sandbox: Sandbox, oracle: dict[str, tuple[str, int]], program: Program) -> None:
    """Every program prints the same, in the same order, and ends the same way, but for what differs on purpose."""
    seen: list[str] = []
    execution = sandbox.run_code(
        program.code,
        language="java",
        timeout=60,
        on_stdout=lambda message: seen.append(message.line),
        on_stderr=lambda message: seen.append(message.line),
    )
    expected = oracle[str(program)]
    if str(program) in ON_PURPOSE:
        assert expected[1] != 0, "the oracle takes it now: there is no difference left"
        expected = (ON_PURPOSE[str(program)][1], 0)
    assert as_shell(execution, "".join(seen)) == expected


def test_types_of_a_program_serve_beside_statements(sandbox: Sandbox, oracle: dict[str, tuple[str, int]]) -> None:
    """The programs of one topic print the same when a statement of the same cell calls their main."""
    for program in PROGRAMS:
        if program.topic == "students" and oracle[str(program)][1] == 0:
            name = file_of(program.code).removesuffix(".java")
            execution = sandbox.run_code(f"{program.code}\n{name}.main(new String[0]);", language="java", timeout=60)
            assert execution.error is None, (str(program), execution.error)
            assert "".join(execution.logs.stdout) == oracle[str(program)][0], str(program)
