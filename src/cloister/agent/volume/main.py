"""Entry point of the process that serves the content of one volume, as root of a sandbox that holds the volume and nothing else.

Usage: ``main.py DIRECTORY``. Descriptor 3 is a unix socket on which the supervisor sends connections (SCM_RIGHTS), each one HTTP. The
process ends when that socket does, or when it has had no connection for half a minute: then it says that it takes no more, serves those
that were sent meanwhile, and goes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SITE = Path(__file__).resolve().parents[3]
if str(_SITE) not in sys.path:
    sys.path.insert(0, str(_SITE))
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # there is no TLS here; loading it costs 60 ms and 4 MB

import asyncio
import contextlib
import socket

from aiohttp import web

from cloister.agent.volume.app import make_app
from cloister.agent.volume.tree import Tree

__all__ = ["main"]

_CONTROL_FD = 3
_END = b"e"
"""A byte without a connection: end now."""
_IDLE_S = 30.0
_POLL_S = 0.5
_MAX_HEAD_BYTES = 64 << 10
_BUFFER_BYTES = 256 << 10


class Connections:
    """The connections that come on the control socket."""

    def __init__(self, server: web.Server, control: socket.socket) -> None:
        self._server = server
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._last_used = self._loop.time()
        self.is_ending = asyncio.Event()
        control.setblocking(False)
        self._loop.add_reader(control, self._take)

    def _take(self) -> None:
        while not self.is_ending.is_set():
            try:
                data, fds, _, _ = socket.recv_fds(self._control, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            for fd in fds:
                task = self._loop.create_task(self._open(socket.socket(fileno=fd)))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            if data == _END:
                os._exit(0)  # the volume is to be removed, or the node stops: nothing that is acknowledged is lost
            if not data:
                self._loop.remove_reader(self._control)
                self.is_ending.set()

    async def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(self._server, connection)

    async def wait_end(self) -> None:
        """Wait until no connection is open and none will come."""
        while self.is_busy() or not self.is_ending.is_set():
            if self.is_busy():
                self._last_used = self._loop.time()
            elif self._loop.time() - self._last_used > _IDLE_S:
                with contextlib.suppress(OSError):
                    self._control.shutdown(socket.SHUT_RD)  # what was sent before can still be received
                self._take()
            await asyncio.sleep(_POLL_S)

    def is_busy(self) -> bool:
        """Whether a connection is open."""
        return bool(self._opening or self._server.connections)


async def serve(directory: str) -> None:
    """Serve until there is nothing to serve any more."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    runner = web.AppRunner(
        make_app(Tree(root)),
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=_IDLE_S,
        max_line_size=_MAX_HEAD_BYTES,
        max_field_size=_MAX_HEAD_BYTES,
        read_bufsize=_BUFFER_BYTES,
    )
    await runner.setup()
    assert runner.server is not None
    await Connections(runner.server, socket.socket(fileno=_CONTROL_FD)).wait_end()
    await runner.cleanup()


def main(argv: list[str]) -> None:
    """Serve the volume at the directory that is named."""
    os.umask(0)
    os.set_inheritable(_CONTROL_FD, False)
    asyncio.run(serve(argv[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
