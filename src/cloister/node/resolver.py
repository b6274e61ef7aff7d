"""Starts the resolver process of a template build and ends it. The process itself is ``cloister.processes.resolver``.

Runs in: supervisor process of a template build. Needs: root, because the child becomes the instance's own uid.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["resolver_process"]

_PROGRAM = "cloister.processes.resolver"


@contextmanager
def resolver_process(udp: socket.socket, tcp: socket.socket, upstreams: Sequence[str], uid: int) -> Iterator[None]:
    """Run the resolver on the two sockets, as ``uid``, while the block lasts."""
    command = [sys.executable, "-P", "-m", _PROGRAM, str(uid), str(udp.fileno()), str(tcp.fileno()), *upstreams]
    process = subprocess.Popen(command, pass_fds=(udp.fileno(), tcp.fileno()), stdin=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"})
    try:
        yield
    finally:
        process.terminate()
        process.communicate()
