"""A throw-away copy of the code-interpreter root in which tests run a native driver or the agent, without a sandbox.

It owns no isolation: the programs run as root in private mount and pid namespaces over an overlay whose upper layer is a tmpfs,
so nothing is left on the host and the layers are never written. The root is ``CLOISTER_TEST_ROOT`` (a plain directory) or else the
built ``code-interpreter-v1`` template of the store (``CLOISTER_STORE_DIR``, default ``/var/lib/cloister/store``).

Use: ``def test_x(driver_root): kernel = driver_root.start(["/usr/bin/python3", DRIVERS + "/python/main.py"]); kernel.execute("1+1")``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import cloister

__all__ = [
    "DRIVERS",
    "DRIVER_ENV",
    "DRIVER_SOURCE",
    "DriverProcess",
    "DriverRoot",
    "MessageSocket",
    "RootProcess",
    "collect",
    "driver_root",
    "root_layers",
    "store_dir",
]

DRIVERS = "/.cloister/agent/drivers"
"""Where the drivers of this checkout are seen inside the root."""
DRIVER_SOURCE = Path(cloister.__file__).parent / "agent" / "drivers"
DRIVER_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
}


class RootProcess:
    """One program in a private copy of the root. ``fds`` maps its descriptors to ours; close() ends the whole tree."""

    def __init__(
        self,
        lower: Sequence[Path],
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        fds: Mapping[int, int],
        binds: Mapping[Path, str],
    ) -> None:
        self._scratch = tempfile.mkdtemp(prefix="cloister-root-")
        high = {target: fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for target, fd in fds.items()}
        spec = {
            "lower": [str(path) for path in lower],
            "scratch": self._scratch,
            "argv": list(argv),
            "env": dict(env),
            "cwd": cwd,
            "fds": high,
            "binds": {str(source): target for source, target in binds.items()},
        }
        init = Path(__file__).with_name("root_init.py")
        unshare = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]
        self._process = subprocess.Popen(
            [*unshare, sys.executable, "-I", "-S", str(init), json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=list(high.values()),
        )
        for fd in high.values():
            os.close(fd)
        self.raw_stdout = bytearray()
        """What came over fd 1 so far."""
        self.raw_stderr = bytearray()
        """What came over fd 2 so far."""
        self._readers = [
            threading.Thread(target=collect, args=(self._process.stdout, self.raw_stdout), daemon=True),
            threading.Thread(target=collect, args=(self._process.stderr, self.raw_stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The program's pid as the host sees it."""
        init = _children(self._process.pid)
        programs = _children(init[0]) if init else []
        if not programs:
            raise RuntimeError(f"the program is gone: {self.raw_stderr.decode(errors='replace')}")
        return programs[0]

    def wait(self, timeout_s: float = 10) -> int:
        """The program's exit code (low 8 bits; minus signal numbers as 256 - n)."""
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """Kill everything and remove the mount point."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class MessageSocket:
    """The protocol socket of a driver (drivers/README.md)."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._buffer = bytearray()
        self._last_id = 0
        self.acknowledges = True
        """Whether messages that ask for it are answered, as the agent does."""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float = 30) -> dict[str, Any]:
        """The next message.

        Raises: EOFError (the driver is gone), TimeoutError.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(1 << 20)
            if not data:
                raise EOFError(f"the driver closed its socket; stderr: {getattr(self, 'raw_stderr', b'').decode(errors='replace')}")
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        message: dict[str, Any] = json.loads(line)
        if "ack" in message and self.acknowledges:
            self.send({"op": "ack", "ack": message["ack"]})
        return message

    def execute(self, code: str, timeout_s: float = 60, **fields: Any) -> list[dict[str, Any]]:
        """Run code and give all messages of the run, ``done`` last. ``fields`` go into the request (envs, language)."""
        return list(self.stream(code, timeout_s, **fields))

    def stream(self, code: str, timeout_s: float = 60, **fields: Any) -> Iterator[dict[str, Any]]:
        """Like execute, but each message as it comes."""
        self._last_id += 1
        self.send({"op": "execute", "id": self._last_id, "code": code, "envs": {}, **fields})
        while True:
            message = self.receive(timeout_s)
            yield message
            if message["op"] == "done":
                return

    def end_messages(self) -> None:
        """Close the socket."""
        self._socket.close()


class DriverProcess(RootProcess, MessageSocket):
    """A native driver with its protocol socket."""

    def __init__(self, lower: Sequence[Path], argv: Sequence[str], *, env: Mapping[str, str], cwd: str, binds: Mapping[Path, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            RootProcess.__init__(self, lower, argv, env={**env, "CLOISTER_KERNEL_FD": "3"}, cwd=cwd, fds={3: theirs.fileno()}, binds=binds)
        MessageSocket.__init__(self, ours)

    def interrupt(self) -> None:
        """SIGINT to the driver itself; drivers with interrupt "message" get ``send({"op": "interrupt", "id": n})`` instead."""
        os.kill(self.pid, signal.SIGINT)

    def close(self) -> None:
        """Close the socket and kill the tree."""
        self.end_messages()
        super().close()


class DriverRoot:
    """The root's layers, and the processes started in copies of it."""

    def __init__(self, lower: Sequence[Path]) -> None:
        self.lower = tuple(lower)
        """The layers, topmost first."""
        self._stack = contextlib.ExitStack()

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/root",
        binds: Mapping[Path, str] | None = None,
        wait_ready: bool = True,
    ) -> DriverProcess:
        """Start a driver (see :data:`DRIVERS` for its path) and, unless told otherwise, wait for its ``ready``."""
        kernel = DriverProcess(
            self.lower, argv, env={**DRIVER_ENV, **(env or {})}, cwd=cwd, binds={DRIVER_SOURCE: DRIVERS, **(binds or {})}
        )
        self._stack.callback(kernel.close)
        if wait_ready:
            message = kernel.receive()
            assert message == {"op": "ready"}, message
        return kernel

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        fds: Mapping[int, int] | None = None,
        binds: Mapping[Path, str] | None = None,
    ) -> RootProcess:
        """Start any program, e.g. the agent."""
        process = RootProcess(self.lower, argv, env={**DRIVER_ENV, **(env or {})}, cwd="/", fds=fds or {}, binds=binds or {})
        self._stack.callback(process.close)
        return process

    def close(self) -> None:
        """End everything started here."""
        self._stack.close()


def collect(stream: Any, into: bytearray) -> None:
    """Read a stream to its end."""
    while data := os.read(stream.fileno(), 1 << 16):
        into += data


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def store_dir() -> Path:
    """The store that the tests use, as ``cloister`` itself finds it."""
    return Path(os.environ.get("CLOISTER_STORE_DIR", "/var/lib/cloister/store"))


def root_layers() -> list[Path]:
    """The layers of the code-interpreter root, topmost first; none: it was not built."""
    plain = os.environ.get("CLOISTER_TEST_ROOT")
    if plain:
        return [Path(plain)]
    store = store_dir()
    record = store / "templates" / "code-interpreter-v1.json"
    if not record.exists():
        return []
    layers = json.loads(record.read_text(encoding="utf-8"))["layers"]
    return [store / "layers" / layer / "rootfs" for layer in reversed(layers)]


@pytest.fixture
def driver_root() -> Iterator[DriverRoot]:
    """The code-interpreter root; everything that a test starts in it ends with the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lower = root_layers()
    if not lower:
        pytest.skip("needs the built code-interpreter-v1 template, or CLOISTER_TEST_ROOT")
    root = DriverRoot(lower)
    try:
        yield root
    finally:
        root.close()
