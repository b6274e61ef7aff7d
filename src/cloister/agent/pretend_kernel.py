"""A process that plays a forked Python kernel in the exercise of the agent's zygote (zygote.py). Each run of it gives the same result.

Runs in: a child of the zygote, in a session of its own. It ends with its socket, and nothing of it is left in the zygote.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator

__all__ = ["pretend_kernel"]

_PIECE_BYTES = 1 << 16


@contextlib.contextmanager
def pretend_kernel() -> Iterator[socket.socket]:
    """The agent's end of the socket to it, which the caller may have closed before the block ends. Then the process has ended."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.setsid()
            _play(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _play(channel: socket.socket) -> None:
    credentials = struct.pack("=iII", os.getpid(), os.getuid(), os.getgid())
    channel.sendmsg([b"B"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
    text = b""
    while data := channel.recv(_PIECE_BYTES):
        *lines, text = (text + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "adopt":
                channel.sendall(b'{"op": "ready"}\n')
            elif message["op"] == "execute":
                os.write(1, b"text\n")
                run = {"id": message["id"]}
                result = {"op": "result", **run, "main": True, "data": {"text/plain": "2"}, "extra": {}}
                channel.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in (result, {"op": "done", **run, "count": run["id"]})))
