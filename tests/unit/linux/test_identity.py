"""A process that is not to outlive its parent, also when the parent died before it could say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CHILD = "import signal, sys, time; from cloister.linux.identity import die_with_parent; time.sleep(float(sys.argv[2])); "
_CHILD += "die_with_parent(signal.SIGTERM, int(sys.argv[1])); print('lives', flush=True); time.sleep(20); print('late')"
_PARENT = "import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2]]); "
_PARENT += "print(child.pid, flush=True); child.wait()"


@pytest.mark.parametrize("delay", ["0", "1.5"])
def test_child_ends_with_its_parent_at_any_time(delay: str) -> None:
    """Killed before the child asked for the signal, or after: its output ends, so it is gone."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD, delay], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline()
    if delay == "0":
        assert parent.stdout.readline() == "lives\n"
    parent.kill()
    parent.wait()
    with parent.stdout:
        assert parent.stdout.read() == ""  # comes when the last process that holds the pipe has ended
