"""Python kernels forked from a zygote that runs in a test root: the same interface as a driver started by ``exec`` (driver_root.py).

It plays the supervisor's and the agent's part of docs/decisions/0014-zygotes.md; the fork is that of programs/forking. All kernels of one
zygote share its root and pid namespace.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.driver_root import (
    DRIVER_ENV,
    DRIVER_SOURCE,
    DRIVERS,
    DriverProcess,
    DriverRoot,
    MessageSocket,
    RootProcess,
    collect,
    root_layers,
)

__all__ = ["ForkedDriver", "PythonZygote", "python", "python_zygote"]

_PROGRAM = Path(__file__).parent / "programs" / "forking"
_FORKING = "/forking"


class PythonZygote:
    """A zygote, ready to fork."""

    def __init__(self, lower: Sequence[Path], *, start: str = "", timeout_s: float = 90) -> None:
        """``start`` is Python code that the zygote's interpreter runs first."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        run = ["/usr/bin/python3", f"{_FORKING}/main.py", DRIVERS]
        if start:
            run = [
                "/usr/bin/python3",
                "-c",
                f"{start}\nimport runpy, sys\nsys.argv = {run[1:]!r}\nsys.path[0] = ''\nrunpy.run_path(sys.argv[0])",
            ]
        with theirs:
            self.process = RootProcess(
                lower, run, env=DRIVER_ENV, cwd="/", fds={3: theirs.fileno()}, binds={DRIVER_SOURCE: DRIVERS, _PROGRAM: _FORKING}
            )
        self._control.settimeout(timeout_s)
        self._kernels: list[ForkedDriver] = []
        if self._control.recv(16) != b"ready":
            code = self.process.wait()
            self.close()
            raise RuntimeError(f"the zygote ended ({code}): {self.process.raw_stderr.decode(errors='replace')}")

    def fork(self, kind: bytes = b"b") -> socket.socket:
        """A fresh child's birth socket."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self._control.sendmsg([kind], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        return ours

    def start(self, *, env: Mapping[str, str] | None = None, cwd: str = "/root", wait_ready: bool = True, **identity: Any) -> ForkedDriver:
        """A forked kernel; ``identity`` may be uid, gid, groups and oom_score_adj."""
        kernel = ForkedDriver(self.fork(), {**DRIVER_ENV, **(env or {})}, cwd, identity)
        self._kernels.append(kernel)
        if wait_ready:
            message = kernel.receive()
            assert message == {"op": "ready"}, message
        return kernel

    def end_kernels(self) -> None:
        """End the kernels that were started here."""
        while self._kernels:
            self._kernels.pop().close()

    def close(self) -> None:
        """End everything."""
        self.end_kernels()
        self._control.close()
        self.process.close()


class ForkedDriver(MessageSocket):
    """One forked kernel. ``pid`` is as the host sees it."""

    def __init__(self, birth: socket.socket, env: Mapping[str, str], cwd: str, identity: Mapping[str, Any]) -> None:
        super().__init__(birth)
        birth.settimeout(10)
        greeting, ancillary, _, _ = birth.recvmsg(1, socket.CMSG_SPACE(12))
        assert greeting == b"B"
        self.pid, _, _ = struct.unpack("iII", ancillary[0][2])
        self.raw_stdout, self.raw_stderr = bytearray(), bytearray()
        self._pipes: list[Any] = []
        self._readers: list[threading.Thread] = []
        ends = [self._pipe(self.raw_stdout), self._pipe(self.raw_stderr)]
        document = {"op": "adopt", "env": dict(env), "cwd": cwd, "uid": 0, "gid": 0, "groups": [], "oom_score_adj": 600, **identity}
        line = json.dumps(document).encode() + b"\n"
        birth.sendmsg([line[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))])
        birth.sendall(line[1:10])
        birth.sendall(line[10:])
        for end in ends:
            os.close(end)

    def _pipe(self, into: bytearray) -> int:
        reading, writing = os.pipe()
        stream = os.fdopen(reading, "rb", buffering=0)
        reader = threading.Thread(target=collect, args=(stream, into), daemon=True)
        reader.start()
        self._pipes.append(stream)
        self._readers.append(reader)
        return writing

    def interrupt(self) -> None:
        """SIGINT to the kernel itself."""
        os.kill(self.pid, signal.SIGINT)

    def close(self) -> None:
        """Kill the kernel and what shares its session."""
        self.end_messages()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        for reader in self._readers:
            reader.join(max(0.01, deadline - time.monotonic()))
        for stream in self._pipes:
            stream.close()


@pytest.fixture(scope="module")
def python_zygote() -> Iterator[PythonZygote]:
    """A Python zygote of the code-interpreter root, shared by the tests of a module with all that they leave in its tree."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lower = root_layers()
    if not lower:
        pytest.skip("needs the built code-interpreter-v1 template, or CLOISTER_TEST_ROOT")
    zygote = PythonZygote(lower)
    try:
        yield zygote
    finally:
        zygote.close()


@pytest.fixture(params=["cold", "forked"])
def python(request: pytest.FixtureRequest) -> Iterator[DriverProcess | ForkedDriver]:
    """A ready Python kernel, started each way."""
    if request.param == "cold":
        root: DriverRoot = request.getfixturevalue("driver_root")
        yield root.start(["/usr/bin/python3", f"{DRIVERS}/python/main.py"])
        return
    zygote: PythonZygote = request.getfixturevalue("python_zygote")
    yield zygote.start()
    zygote.end_kernels()
