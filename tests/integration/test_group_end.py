"""The end of all that is in a control group, however hard it tries to live on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloister.linux.cgroup import find_tree, is_writable
from cloister.model.resources import Limits

pytestmark = [pytest.mark.root, pytest.mark.skipif(not is_writable(), reason="no control groups here")]

BOMB = "import os\nos.setsid()\nwhile True:\n    try: os.fork()\n    except OSError: pass"


def test_processes_that_fork_for_ever_are_ended() -> None:
    """None outruns it, and the group can be removed."""
    tree = find_tree(10_000 + os.getpid())
    try:
        tree.create("bomb", Limits(mem_mib=512, cpu_count=0.5, pids=40))
        bomb = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); " + f"exec({BOMB!r})"], stdin=subprocess.PIPE)
        tree.attach("bomb", bomb.pid)
        assert bomb.stdin is not None
        bomb.stdin.close()
        deadline = time.monotonic() + 20
        while tree.usage("bomb").pids < 40:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tree.kill_all("bomb")
        assert bomb.wait(10) == -9
        deadline = time.monotonic() + 10
        while tree.usage("bomb").pids:  # those that the host's first process is still to reap
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tree.kill_all("no-such-group")
    finally:
        tree.remove_all()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/cloister/{10_000 + os.getpid()}"))
