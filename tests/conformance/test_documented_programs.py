"""The programs and commands in the guides of the documentation site run as a reader copies them, or are at least parsed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from framework.client_programs import run_client_program
from framework.server import Server

ROOT = Path(__file__).parents[2]
PAGES = ("howto/quickstart", "howto/move-from-e2b", "howto/agent-frameworks", "README", "faq", "comparison", "limits", "security", "api")
BLOCKS = [
    pytest.param(found[1], found[2], id=f"{page}-{number}")
    for page in PAGES
    for number, found in enumerate(re.finditer(r"```(\w+)\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL))
]
_OUTPUT = re.compile(r"(?m)^ *print\(.*\) +# (\S.*)$")
"""A line that prints, with its output in a comment."""


@pytest.mark.root
@pytest.mark.templates
@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_program(language: str, code: str, server: Server, tmp_path: Path) -> None:
    """A program prints what its comments say. A command of the shell is parsed."""
    if language == "bash":
        subprocess.run(["bash", "-n", "-c", code], check=True)
        return
    assert language in {"python", "javascript"}
    program = tmp_path / ("example.py" if language == "python" else "example.mjs")
    program.write_text(code, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "conformance" / "js" / "node_modules")
    command = [sys.executable if language == "python" else "node", str(program)]
    lines = run_client_program(command, {**os.environ, **server.environ})[0].splitlines()
    wanted = _OUTPUT.findall(code)
    assert [line for line in lines if line in wanted] == wanted
    assert lines


@pytest.mark.root
@pytest.mark.templates
def test_commands_of_the_reference_work(server: Server) -> None:
    """Each curl command of docs/api.md is answered as it stands, without an error."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^    (curl .*)$", page)
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(["bash", "-c", f"{command} --silent --fail"], env={**os.environ, **server.environ}, capture_output=True, text=True, check=True)
        assert "sandboxID" in done.stdout or done.stdout == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_programs_of_all_documents_are_parsed(path: Path) -> None:
    """Each Python block compiles, and each shell block parses."""
    for language, code in re.findall(r"```(\w+)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        if language == "python":
            compile(code, str(path), "exec")
        elif language in {"bash", "sh"}:
            subprocess.run(["bash", "-n", "-c", code], check=True)
