"""A stand-in for the drivers' ``zygote``: forks with ``os.fork`` in the namespaces of the test root, for whoever asks on descriptor 3.

A request is one byte with a birth socket. ``b`` asks for a kernel; ``t`` for a child that is not born: it answers each line of code that
it is sent with what the code leaves in ``answer``, so that a test sees what the zygote itself would have drawn.
"""

from __future__ import annotations

import array
import os
import signal
import socket


def serve() -> socket.socket:
    """Say that we are ready, then fork for every request; returns in a child that is to be born."""
    control = socket.socket(fileno=3)
    control.sendall(b"ready")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4))
        if not request:
            os._exit(0)
        (birth,) = array.array("i", ancillary[0][2])
        if os.fork() == 0:
            control.close()
            os.setsid()
            os.dup2(birth, 3)
            os.closerange(4, 64)
            born = socket.socket(fileno=3)
            if request == b"b":
                return born
            _be_twin(born)
        os.close(birth)


def _be_twin(born: socket.socket) -> None:
    with born.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            names: dict[str, object] = {}
            exec(line, names)
            born.sendall(str(names["answer"]).encode() + b"\n")
    os._exit(0)
