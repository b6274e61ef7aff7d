"""The programs of ``examples/``, unmodified, through both official SDKs, against a pretend internet that answers for httpbin.org."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted([*EXAMPLES.glob("python/[1-5]_*.py"), *EXAMPLES.glob("javascript/[1-5]_*.mjs")])
STREAMING = sorted([*EXAMPLES.glob("python/6_*.py"), *EXAMPLES.glob("javascript/6_*.mjs")])


def run(program: Path, server: Server) -> str:
    """Run one example as a person would; what it printed."""
    command = [sys.executable if program.suffix == ".py" else "node", str(program)]
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **server.environ}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environ, cwd=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_five_programs_in_both_languages() -> None:
    """None of the ten is missing."""
    assert len(PROGRAMS) == 10
    assert len(STREAMING) == 2


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_program_prints_the_document(program: Path, online_server: Server) -> None:
    """The JSON document of httpbin.org is fetched inside the sandbox and printed."""
    assert "Sample Slide Show" in run(program, online_server)


@pytest.mark.parametrize("program", STREAMING, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_streaming(program: Path, online_server: Server) -> None:
    """Output comes as it happens and results once."""
    printed = run(program, online_server)
    assert printed.index("hello") < printed.index("world")
    assert "2" in printed


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("ok.py", "print('fine')", 0), ("ok.js", "console.log('fine')", 0), ("ok.sh", "echo fine", 0), ("bad.py", "print('fine')\n1 / 0", 1)],
)
def test_cloister_run(tmp_path: Path, online_server: Server, name: str, code: str, status: int) -> None:
    """``cloister run FILE`` prints what the program prints and ends with its success or failure."""
    path = tmp_path / name
    path.write_text(code)
    done = online_server.cli("run", str(path), check=False)
    assert (done.returncode, done.stdout) == (status, "fine\n"), done.stderr
