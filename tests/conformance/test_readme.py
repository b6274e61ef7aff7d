"""The programs in README do what their comments say, as a reader copies them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from framework.client_programs import run_client_program
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ROOT = Path(__file__).parents[2]
_JS = ROOT / "tests" / "conformance" / "js"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def _run(server: Server, *command: str) -> list[str]:
    return run_client_program(command, {**os.environ, **server.environ})[0].splitlines()


def test_the_first_lines_work(server: Server) -> None:
    """State is kept between two runs."""
    assert _run(server, sys.executable, "-c", _blocks("python")[0]) == ["12.57"]


def test_the_first_program_works(server: Server) -> None:
    """State, streaming, languages, a chart and an error."""
    lines = _run(server, sys.executable, "-c", _blocks("python")[1])
    assert lines[:4] == ["21", "0", "1", "2"]
    assert lines[-1] == "ZeroDivisionError"
    assert any("BAR" in line for line in lines)


def test_the_program_in_javascript_works(server: Server) -> None:
    """Both lines of a stream, and a value."""
    program = _JS / "readme.tmp.mjs"  # beside the packages that it imports
    try:
        program.write_text(_blocks("javascript")[0], encoding="utf-8")
        assert _run(server, "node", str(program)) == ["hello", "later", "[0, 1, 4, 9, 16]"]
    finally:
        program.unlink(missing_ok=True)
