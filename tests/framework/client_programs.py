"""Runs programs of the official SDKs as a person would, in a process of their own.

The transport of the current Python SDKs (pyqwest, in Rust) may abort an interpreter older than Python 3.14 that exits while a stream still
ends: a thread of it asks for the interpreter, which is gone (docs/compatibility.md). The program has ended by then and has written all of
its output. Python's fault handler tells this abort from any other: no thread executes Python code any more.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["run_client_program"]

_ABORTED_AT_EXIT = re.compile(
    r"(?:FATAL: exception not rethrown\n)?Fatal Python error: Aborted\n\n"
    r"(?:(?:Current thread|Thread) 0x[0-9a-f]+[^\n]*:\n  <no Python frame>\n+)+(?:Extension modules: [^\n]*\n)?\s*\Z"
)


def run_client_program(
    command: Sequence[str], environ: Mapping[str, str], *, cwd: Path | None = None, timeout_s: float = 120
) -> tuple[str, str]:
    """Run a program that must succeed: its standard output and its standard error.

    Raises: AssertionError with both, if it fails; TimeoutExpired.
    """
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**environ, "PYTHONFAULTHANDLER": "1"},
        cwd=cwd,
    )
    at_exit = _ABORTED_AT_EXIT.search(done.stderr) if done.returncode == -signal.SIGABRT else None
    assert done.returncode == 0 or at_exit, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr[: at_exit.start()] if at_exit else done.stderr
