"""R cells against ``Rscript file``: what small programs print and show, in order, and how they end; plots in their place among the text."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b_code_interpreter import Context, Execution, Result, Sandbox

from framework.differential import Program, programs
from framework.oracle import Outcome, plain_outcomes
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.timeout(900)]

ON_PURPOSE = {
    "values: functions print with their source": "functions keep the source that the user wrote",
    "more: values in blocks": "as above",
}
"""Programs that differ, and why. docs/languages.md says the same."""


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all programs."""
    made = Sandbox.create(timeout=600, **server.sdk)
    yield made
    made.kill()


def run(sandbox: Sandbox, context: Context, code: str) -> tuple[list[str], Execution]:
    """Everything that the client receives, in order. Text is unchanged, a value is as printed, a picture is its type."""
    seen: list[str] = []

    def show(result: Result) -> None:
        seen.append(f"{result.text}\n" if result.text else "<png>\n" if result.png else "<?>\n")

    done = sandbox.run_code(code, context=context, timeout=60, on_stdout=lambda message: seen.append(message.line), on_result=show)
    return seen, done


def as_cell(sandbox: Sandbox, context: Context, program: Program) -> Outcome:
    """Result of the program as a cell: text and values together, 1 for an error, and the error's text."""
    run(sandbox, context, "rm(list = ls(all.names = TRUE)); setwd(tempfile(tmpdir = '/tmp') |> (\\(d) { dir.create(d); d })())")
    seen, done = run(sandbox, context, program.code)
    # A syntax error shows its lines in another form than a file's.
    said = done.error.value if done.error and done.error.name != "ParseError" else ""
    return Outcome(int(done.error is not None), "".join(seen), said)


def comparable(text: str) -> str:
    """Without addresses."""
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def test_cells_do_what_files_do(sandbox: Sandbox) -> None:
    """Each program prints and shows the same in the same order, and fails when its file does, with the same message."""
    wanted = programs("r")
    expected = plain_outcomes(sandbox, ["Rscript"], wanted)
    contexts = [sandbox.create_code_context(language="r") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda k: [as_cell(sandbox, contexts[k], program) for program in wanted[k::2]], range(2)))
    outcomes = {str(program): halves[k % 2][k // 2] for k, program in enumerate(wanted)}
    differ = {}
    for program, plain in zip(wanted, expected, strict=True):
        outcome = outcomes[str(program)]
        same_end = min(plain.status, 1) == outcome.status and (
            "Error" not in plain.stderr or " ".join(outcome.stderr.split()[-3:]) in " ".join(plain.stderr.split())
        )
        if comparable(plain.stdout) != comparable(outcome.stdout) or not same_end:
            differ[str(program)] = (plain, outcome)
    assert differ.keys() == ON_PURPOSE.keys(), {name: differ.get(name) for name in differ.keys() ^ ON_PURPOSE.keys()}


PLOTS = {
    'for (i in 1:3) { cat("b", i, "\\n"); plot(i); cat("a", i, "\\n") }': "b 1|<png>|a 1|b 2|<png>|a 2|b 3|<png>|a 3",
    'plot(1:3)\ncat("hi\\n")\nlines(3:1)\ncat("end\\n")': "hi|<png>|end",
    '{ plot(1:3); cat("hi\\n"); lines(3:1); cat("end\\n") }\ncat("last\\n")': "<png>|hi|end|last|<png>",
    'plot(1)\n"value"\ncat("t\\n")\nplot(2)': '<png>|[1] "value"|t|<png>',
    'par(mfrow = c(1, 2)); plot(1); cat("one\\n"); plot(2); cat("two\\n"); plot(3)': "one|<png>|two|<png>",
    'library(ggplot2)\nfor (i in 1:2) { print(ggplot(mtcars, aes(wt, mpg)) + geom_point()); cat("a", i, "\\n") }': "<png>|a 1|<png>|a 2",
    'ggplot2::qplot(1:3, 1:3)\ncat("after\\n")\n1 + 1': "<png>|after|[1] 2",
    'library(lattice)\nfor (i in 1:2) { print(xyplot(mpg ~ wt, mtcars)); cat("a", i, "\\n") }': "<png>|a 1|<png>|a 2",
    'library(grid); grid.newpage(); grid.rect(); cat("x\\n")': "<png>|x",
    'plot(1); invisible(system("echo child")); cat("x\\n")': "<png>|child|x",
    'plot(lm(mpg ~ wt, mtcars)); cat("x\\n")': "<png>|<png>|<png>|<png>|x",
    'png("/tmp/own.png"); plot(1); cat("x\\n"); invisible(dev.off()); cat("y\\n")': "x|y",
    'for (i in 1:40) { cat("b", i, "\\n"); print(i); i; plot(i) }; cat("end\\n")': "|".join(f"b {i}|[1] {i}|<png>" for i in range(1, 41))
    + "|end",
}


def test_plots_come_between_the_text_before_and_after_them(sandbox: Sandbox) -> None:
    """The client has plots and text in the order in which the code made them, and every picture is whole."""
    context = sandbox.create_code_context(language="r")
    for code, expected in PLOTS.items():
        seen, done = run(sandbox, context, code)
        assert done.error is None
        lines = [line.strip() for line in "".join(seen).splitlines()]
        assert "|".join(lines) == expected, code
        assert all(base64.b64decode(result.png).endswith(b"IEND\xaeB`\x82") for result in done.results if result.png)
