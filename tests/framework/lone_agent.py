"""The agent of this checkout as a plain process of the tests' interpreter, with the descriptors that pid 1 gives; no root, no sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloister
from cloister.protocol.ready import SERVING

__all__ = ["MAIN", "Descriptors", "LoneAgent", "place"]

MAIN = Path(cloister.__file__).parent / "agent" / "main.py"
_HIGH = 100


class Descriptors:
    """The descriptors from 3 to 6 of one agent; ``port`` is the code interpreter's, ``control_port`` the other."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        control, interpreter = (self._stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        self.port, self.control_port = interpreter.getsockname()[1], control.getsockname()[1]
        init = os.memfd_create("init")
        os.write(init, json.dumps(document).encode())
        self._ready, tell = os.pipe()
        for fd in (init, self._ready, tell):
            self._stack.callback(os.close, fd)
        self.fds = [init, control.fileno(), interpreter.fileno(), tell]

    def wait_ready(self) -> None:
        """Until the agent serves."""
        assert os.read(self._ready, 1) == SERVING

    def close(self) -> None:
        """Free ours."""
        self._stack.close()

    def request(self, method: str, path: str, body: Any = None, *, control: bool = False, token: str | None = None) -> tuple[int, str]:
        """(status, text) of one request."""
        headers = {} if token is None else {"X-Access-Token": token}
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port if control else self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def execute(self, code: str, language: str | None = None) -> list[dict[str, Any]]:
        """All events of one run in the default context of a language."""
        status, text = self.request("POST", "/execute", {"code": code, "language": language})
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]


class LoneAgent:
    """An agent started by exec; ``more`` are descriptors from 7 on."""

    def __init__(self, descriptors: Descriptors, more: Mapping[int, int], main: Path = MAIN) -> None:
        given = {**dict(enumerate(descriptors.fds, 3)), **more}
        with contextlib.ExitStack() as high:
            places = {target: high.enter_context(_moved(fd)) for target, fd in given.items()}
            self.process = subprocess.Popen(
                [sys.executable, str(main)],
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: place(places),  # noqa: PLW1509 - it only moves descriptors
                pass_fds=tuple(given),
                start_new_session=True,
            )

    def close(self) -> int:
        """End it as pid 1 never does, politely; its exit code."""
        self.process.terminate()
        return self.process.wait(20)


def place(places: Mapping[int, int]) -> None:
    """Put descriptors in their places; the sources are above all of them."""
    for target, fd in places.items():
        os.dup2(fd, target, inheritable=True)


@contextlib.contextmanager
def _moved(fd: int) -> Any:
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    try:
        yield high
    finally:
        os.close(high)
