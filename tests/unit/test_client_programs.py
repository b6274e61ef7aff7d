"""The end of a program of the SDKs: an abort of the interpreter's exit is told from any other."""

from __future__ import annotations

import os
import sys

import pytest

from framework.client_programs import run_client_program


def run(code: str) -> str:
    """What a Python program writes."""
    return run_client_program([sys.executable, "-c", code], dict(os.environ))[0]


def test_a_program_that_ends_is_read() -> None:
    """With what it wrote."""
    assert run("print('whole')") == "whole\n"


def test_an_abort_of_the_exit_is_none() -> None:
    """No thread executes Python code, and the output is whole."""
    assert run("import atexit, ctypes; print('whole', flush=True); atexit.register(ctypes.CDLL(None).abort)") == "whole\n"


FAILURES = ["import sys; sys.exit(3)", "import os; os.abort()", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]


@pytest.mark.parametrize("code", FAILURES)
def test_a_program_that_fails_is_a_failure(code: str) -> None:
    """By its status, by an abort while its code runs, or by another signal."""
    with pytest.raises(AssertionError, match="status"):
        run(code)
