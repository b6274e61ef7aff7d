"""The agent's zygote with a plain fork in the place of drivers/zygote.py, and who plays supervisor and pid 1 for it.

As a program (descriptor 3: its control socket) it forks agents; with ``--report`` its children write on descriptor 6 what they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

__all__ = ["FakeZygote"]


class FakeZygote:
    """A running zygote."""

    def __init__(self, *arguments: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pids: list[int] = []
        """Children that end with it."""
        self._births: list[socket.socket] = []
        with theirs, theirs.dup() as away:

            def place() -> None:
                os.dup2(away.fileno(), 3, inheritable=True)

            self.process = subprocess.Popen(
                [sys.executable, "-I", __file__, *arguments],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"ZYGOTE": "1", "PATH": os.environ["PATH"]},
                preexec_fn=place,  # noqa: PLW1509 - it only moves a descriptor
                pass_fds=(3,),
            )

    def fork(self) -> socket.socket:
        """Pid 1's end of a new child's birth socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
        self._births.append(ours)
        return ours

    def close(self) -> str:
        """End it; what it and its children wrote to its log."""
        for birth in self._births:
            birth.close()
        self._control.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, said = self.process.communicate(timeout=20)
        return said.decode()


def serve() -> socket.socket:
    """As drivers/zygote.py does it, but for the sandbox."""
    control = socket.socket(fileno=3)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.detach()
            os.dup2(descriptors[0], 3)
            os.closerange(4, 256)
            return socket.socket(fileno=3)
        os.close(descriptors[0])


def report(_assembly: object) -> None:
    """Describe this process, as JSON on descriptor 6."""
    names = {}
    for link in list(Path("/proc/self/fd").iterdir()):
        if link.is_symlink():  # not that of the listing itself
            names[link.name] = [str(link.readlink()), os.get_inheritable(int(link.name))]
    facts = {
        "env": dict(os.environ),
        "cwd": str(Path.cwd()),
        "fds": names,
        "threads": threading.active_count(),
        "random": random.random(),
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "pid": os.getpid(),
    }
    os.write(6, json.dumps(facts).encode())
    os._exit(0)


if __name__ == "__main__":
    from cloister.agent import main as agent
    from cloister.agent.zygote import run

    run(serve, gc.freeze, agent.new_launcher(), report if "--report" in sys.argv else agent.main)
