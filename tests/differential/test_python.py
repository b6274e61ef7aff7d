"""Python cells against ``python3 file.py`` in the same sandbox: output, errors with their lines, exit codes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
from e2b_code_interpreter import Execution, Sandbox

from framework.differential import programs
from framework.oracle import Outcome as PlainOutcome
from framework.oracle import plain_outcomes
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ON_PURPOSE: dict[str, str] = {
    "errors: notes": "notes are in the traceback, not in the value",
    "errors: unraisable errors": "the interpreter prints such tracebacks without the source lines of cells, which are in no file",
    "errors: excepthook": "sys.excepthook is IPython's, which sends errors as the run's",
    "language: dunder names": "__main__ has IPython's documentation string",
    "language: dunder file": "a cell has no file",
    "language: return outside of a function": "IPython compiles a cell statement by statement, so those before the error run",
    "language: syntax warning": "IPython parses a cell before it compiles it, so such a warning names no file",
    "language: tab error": "IPython finds it before it compiles the cell; the line is in the value",
    "library: inspect source": "the source of classes of cells is not found, as in Jupyter; that of functions is",
    "library: doctest": "a cell's lines are counted from IPython's file name",
    "processes: subprocess output": "a cell's lines are written at once, a file's at the end",
    "processes: fork and print": "likewise: a child has no copy of what was not written yet",
    "processes: fork and an error": "the child's traceback is IPython's",
    "processes: atexit": "functions of atexit run when the kernel ends",
    "processes: standard input is empty": "stderr says so",
    "processes: input without a guard": "the error says what to do",
    "processes: default interrupt handler": "SIGINT is the driver's, so that it ends a run and not the kernel",
}
"""Programs that a cell runs in another way, and why; docs/languages.md lists the kinds."""
_TRACE = re.compile(r"(  \+ Exception Group )?Traceback \(most recent call last\):")
_SYNTAX = re.compile(r'  File "/tmp/oracle/program\d+", line \d+$')
_PLACES = re.compile(r"/tmp/oracle/program\d+|/tmp/ipykernel_\d+/\d+\.py|<ipython-input-[\w-]+>")
_SYNTAX_PLACE = re.compile(r" \((?:FILE|<string>)(?:, line \d+)?\)$")
"""IPython's value of a syntax error names its place too."""
_HINT = re.compile(r"\. Did you mean: '\w+'\?$")
"""The interpreter's traceback has it; it is no part of the exception."""
_ADDRESSES = re.compile(r"0x[0-9a-f]{8,}")


@dataclass(frozen=True)
class Outcome:
    """Result of a program; the line is that of the innermost frame in the program's own code."""

    stdout: str
    stderr: str
    name: str
    value: str
    line: int


def test_cells_do_what_programs_do(server: Server) -> None:
    """Output, names, messages and lines of errors and exit codes are those of the interpreter, all programs in one context."""
    found = programs("python")
    with Sandbox.create("code-interpreter-v1", timeout=900, **server.sdk) as sandbox:
        expected = plain_outcomes(sandbox, ["python3"], found, cwd="/home/user")
        wrong = {}
        for program, plain in zip(found, expected, strict=True):
            execution = sandbox.run_code(program.code, timeout=60)
            differences = _differences(_outcome_of_file(plain), _outcome_of(execution))
            if differences and str(program) not in ON_PURPOSE:
                wrong[str(program)] = differences
            elif not differences and str(program) in ON_PURPOSE:
                wrong[str(program)] = ["differs no more"]
    assert not wrong, "\n".join(f"{name}\n    " + "\n    ".join(texts) for name, texts in wrong.items())


def _outcome_of_file(plain: PlainOutcome) -> Outcome:
    stdout, stderr, code = _plain(plain.stdout), plain.stderr, plain.status
    if code == 0:
        return Outcome(stdout, _plain(stderr), "", "", 0)
    lines = stderr.splitlines()
    starts = [place for place, line in enumerate(lines) if _TRACE.match(line) or _SYNTAX.match(line)]
    if not starts:
        has_text = code == 1 and bool(lines)  # sys.exit("text")
        said = "\n".join(lines[:-1]) if has_text else stderr
        return Outcome(stdout, _plain(said), "SystemExit", lines[-1] if has_text else str(code), 0)
    shown = [line.removeprefix("  | ") for line in lines[starts[-1] :]]
    numbers = re.findall(r'File "/tmp/oracle/program\d+", line (\d+)', "\n".join(shown))
    indent = "  " if _TRACE.match(shown[0]) else " "
    told = itertools.dropwhile(lambda line: line.startswith(indent) or _TRACE.match(line), shown)
    text = itertools.takewhile(lambda line: not line.startswith("  +"), told)  # members of a group follow
    name, _, value = "\n".join(text).partition(": ")
    said, value = _plain("\n".join(lines[: starts[0]])), _HINT.sub("", _plain(value))
    return Outcome(stdout, said, name.split(".")[-1], value, int(numbers[-1]) if numbers else 0)


def _outcome_of(execution: Execution) -> Outcome:
    stdout, stderr = _plain("".join(execution.logs.stdout)), "".join(execution.logs.stderr)
    error = execution.error
    if error is None or (error.name == "SystemExit" and error.value in ("", "0", "None")):
        return Outcome(stdout, _plain(stderr), "", "", 0)
    if error.name == "SystemExit":
        return Outcome(stdout, _plain(stderr), "SystemExit", error.value, 0)
    trace = error.traceback[max(0, error.traceback.rfind("Traceback (most")) :]
    numbers = re.findall(r'(?:Cell In\[\d+\], line |File "?<ipython-input[^>]*>"?(?:, line |:))(\d+)', trace)
    value = _SYNTAX_PLACE.sub("", _plain(error.value))
    return Outcome(stdout, _plain(stderr), error.name, value, int(numbers[-1]) if numbers else 0)


def _plain(text: str) -> str:
    return _ADDRESSES.sub("0x", _PLACES.sub("FILE", text)).strip("\n")


def _differences(plain: Outcome, cell: Outcome) -> list[str]:
    differences = []
    for name in ("stdout", "stderr", "name", "value", "line"):
        one, other = getattr(plain, name), getattr(cell, name)
        if one != other:
            differences.append(f"{name}: {one!r:.600} in a file, {other!r:.600} in a cell")
    return differences
