"""A supervisor of a host that goes down: ``python -m framework.going_down DATA_DIR READY_FD CHECKPOINT``.

A test stops it by SIGTERM.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from cloister.config.load import load
from cloister.processes.node import run_node

__all__ = ["stop_on_a_host_that_goes_down"]

_STOP_TIMEOUT_S = 150.0
_POLL_S = 0.001


def stop_on_a_host_that_goes_down(data_dir: Path, log: Path, *, cut_off_at: str = "", checkpoint: str | None = None) -> None:
    """Take over the sandboxes of a server that was stopped, and stop as ``on_stop=keep`` does when the host goes down.

    ``cut_off_at`` is a text of its log: when it is there, the stop is ended by SIGKILL. ``checkpoint`` is the setting.
    """
    ready, theirs = os.pipe()
    command = [sys.executable, "-m", "framework.going_down", str(data_dir), str(theirs), checkpoint or ""]
    with log.open("ab") as said, os.fdopen(ready) as line:
        process = subprocess.Popen(command, pass_fds=(theirs,), stdout=said, stderr=said, cwd=Path(__file__).parents[1])
        os.close(theirs)
        line.readline()
        process.terminate()
        if cut_off_at:
            while cut_off_at not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(_POLL_S)
            process.kill()
            process.wait()
            return
        assert process.wait(_STOP_TIMEOUT_S) == 0, log.read_text()


if __name__ == "__main__":
    read = load(None, os.environ)
    directory, ready_fd, program = sys.argv[1:]
    settings = replace(read, data_dir=Path(directory), on_stop="keep", checkpoint=program or None)
    run_node(settings, parent=None, ready_fd=int(ready_fd), goes_down=lambda: True)
