"""Output of a program under `node` and in a cell: the two halves of the JavaScript and TypeScript comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2b_code_interpreter import Context, Execution, Sandbox

from framework.differential import Program, programs

__all__ = ["unlike"]

_RUNNER = Path(__file__).with_name("programs") / "node_oracle.js"
_PLACE = "/home/user/oracle"
_ALONE = " alone"
"""Programs with such a name change the process for good, and have a context of their own."""
_HEAD = re.compile(r"^(?:file://|node:|/)[^\n]*:(\d+)\n(?:[^\n]*\n){1,12}?[ \t]*\^+[ ]*\n\n?", re.MULTILINE)
_END = re.compile(r"\n*(?:\(Use `node --trace-uncaught[^\n]*\n)?\n*Node\.js v[^\n]*\n$")
_FRAME = re.compile(rf"{_PLACE}/[\w.]+:(\d+)(?::\d+)?")
_SOURCE_FRAME = re.compile(rf"{_PLACE}/\d+\.ts:(\d+)")
_CELL = re.compile(r"cell-\d+\.[jt]s:(\d+)")
_PATH = re.compile(rf"(?:file://)?{_PLACE}/\d+\.\w+|cell-\d+\.[jt]s")
_PID = re.compile(r"\(node:\d+\)")
_MODULE = re.compile(r"^(?:import\b(?!\s*[\w$]+\s*=\s*require)|export\b)", re.MULTILINE)
_UNSETTLED = 13


@dataclass(frozen=True)
class _Outcome:
    """One run of a program. ``error`` is all that was said about an uncaught error, or a text about the exit code."""

    stdout: str
    stderr: str
    error: str = ""
    line: int = 0


def unlike(sandbox: Sandbox, language: str, on_purpose: Mapping[str, str]) -> dict[str, list[str]]:
    """The programs of a language whose cell differs from `node`, or that should and do not, with what differs."""
    found = programs(language)
    plain = _oracle(sandbox, found, language)
    wrong = {}
    for program, node, cell in zip(found, plain, _run_cells(sandbox, found, language), strict=True):
        differing = _differences(node, cell)
        if bool(differing) != (str(program) in on_purpose):
            wrong[str(program)] = differing
    return wrong


def _oracle(sandbox: Sandbox, programs: Sequence[Program], language: str) -> list[_Outcome]:
    """Run all programs by `node`, two at a time."""
    data = [{"code": program.code, "language": language, "isModule": _is_module(program)} for program in programs]
    sandbox.files.write(f"{_PLACE}/programs.json", json.dumps(data), user="root")
    sandbox.files.write(f"{_PLACE}/runner.js", _RUNNER.read_text(encoding="utf-8"), user="root")
    sandbox.commands.run(f"node {_PLACE}/runner.js {_PLACE}", user="root", cwd="/home/user", timeout=400)
    results = json.loads(sandbox.files.read(f"{_PLACE}/results.json", user="root"))
    return [_of_node(result["stdout"], result["stderr"], result["code"]) for result in results]


def _is_module(program: Program) -> bool:
    """Whether it is a module's code; all else is CommonJS."""
    return program.topic == "modules" or _MODULE.search(program.code) is not None


def _of_node(stdout: str, stderr: str, code: int) -> _Outcome:
    end = _END.search(stderr)
    if end is None:
        if code == _UNSETTLED:
            return _Outcome(
                stdout, re.sub(r"Warning: Detected unsettled top-level await at.*\n*\Z", "", stderr, flags=re.DOTALL), "never settles"
            )
        return _Outcome(stdout, stderr, f"exit code {code}" if code else "")
    head = _HEAD.search(stderr)
    before = stderr[: head.start()] if head else ""
    said = stderr[head.end() if head else 0 : end.start()]
    if before == "\n":  # node puts it before what is no error
        before = ""
    start = head.start() if head else 0
    frame = _SOURCE_FRAME.search(stderr, start) or _FRAME.search(stderr, start)
    return _Outcome(stdout, before, said.strip(), int(frame[1]) if frame else 0)


def _run_cells(sandbox: Sandbox, programs: Sequence[Program], language: str) -> Iterator[_Outcome]:
    """Run each program as a cell; all in one context but for those that want one for themselves."""
    shared = sandbox.create_code_context(language=language)
    for program in programs:
        alone = program.name.endswith(_ALONE)
        context: Context = sandbox.create_code_context(language=language) if alone else shared
        yield _of_cell(sandbox.run_code(program.code, context=context, timeout=60))
        if alone:
            sandbox.remove_code_context(context)


def _of_cell(execution: Execution) -> _Outcome:
    stdout, stderr = "".join(execution.logs.stdout), "".join(execution.logs.stderr)
    if execution.error is None:
        return _Outcome(stdout, stderr)
    name, value, traceback = execution.error.name, execution.error.value, execution.error.traceback
    line = _CELL.search(traceback)
    is_error = not traceback.startswith("Uncaught ")
    return _Outcome(stdout, stderr, f"{name if is_error else ''}\n{value}", int(line[1]) if line else 0)


def _differences(node: _Outcome, cell: _Outcome) -> list[str]:
    """What is not the same, in words. Names and messages of errors must be in what node said of them."""
    both = (("stdout", node.stdout, cell.stdout), ("stderr", node.stderr, cell.stderr))
    texts = [(stream, *(_PATH.sub("FILE", _PID.sub("(node:0)", text)) for text in pair)) for stream, *pair in both]
    found = [f"{name}: {a!r}\n      cell: {b!r}" for name, a, b in texts if a != b]
    name, _, value = cell.error.partition("\n")
    value = value.partition("\nRequire stack:")[0]  # the paths that follow are not the same
    isolated = name == "SystemExit" or "never settles" in value
    is_same = (value in node.error or node.error in value) if isolated else name in node.error and value in node.error
    if bool(node.error) != bool(cell.error) or not is_same:
        found.append(f"error: {node.error!r}\n      cell: {cell.error!r}")
    if node.line != cell.line and not isolated and name and node.error:
        found.append(f"line: {node.line}, cell: {cell.line}")
    return found
