"""A driver (README.md) for any Jupyter kernel: starts the kernel of a kernelspec and translates between the two protocols.

It runs on the agent's interpreter as the kernel's user: the kernel's messages are read here, never in the agent. One thread, one loop, no
blocking calls. It reads everything that the kernel publishes at once, since the kernel drops messages that wait too long. To bound its
memory it stops the kernel (SIGSTOP) while more than a few MiB wait for the agent. When the kernel ends, the bridge ends the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

import zmq
from jupyter.cells import Cells
from jupyter.process import KernelChild, end_like
from jupyter.spec import Connection, Spec, SpecError
from jupyter.wire import Message, Wire

__all__ = ["Bridge", "main"]

_READY_S = 50.0
"""Less than the agent waits, so that the user gets the reason."""
_ASK_AGAIN_S = 0.5
_PUBLISHED_S = 3.0
_REST_S = 3.0
"""The longest wait for a kernel that has answered to become idle: some answer first and initialise afterwards."""
_REST_LOOKS = 3
_LOOK_MS = 20
_IDLE_S = 2.0
"""After the reply and this long without a message, the run is over in any case."""
_INTERRUPTED_S = 0.3
"""The same after an interrupt: some kernels then report idle for the interrupt request, not for the run."""
_WATCH_MS = 100
_HIGH_BYTES = 4 << 20
_LOW_BYTES = 1 << 20
_ROUND_MESSAGES = 200
_READ_BYTES = 64 << 10
_LOG_BYTES = 8 << 10
_LOG_READS = 16
_SHOWN_LOG = 1000
_MAX_MESSAGE_BYTES = 128 << 20
_LAST_WORDS_S = 1.0
_QUIET_MS = 50
_UNUSABLE = 126
_DIRECTORY = "cloister-kernel-"


class Bridge:
    """One kernel behind one protocol socket."""

    def __init__(self, channel: socket.socket, spec: Spec, directory: Path) -> None:
        """Start the kernel. ``directory`` is private. Raises: OSError."""
        connection = Connection()
        self._directory = directory
        connection_file = directory / "kernel.json"
        connection.write(connection_file, Path(spec.directory).name)
        env = spec.environment(os.environ, directory)
        self._spec = spec
        self._kernel = KernelChild(spec.command(str(connection_file), env), env)
        self._wire = Wire(connection.key.encode("ascii"))
        self._cells = Cells()
        self._channel = channel
        channel.setblocking(False)
        self._incoming = bytearray()
        self._outgoing: deque[bytes] = deque()
        self._published: deque[list[bytes]] = deque()
        self._waiting_bytes = 0
        self._log = b""
        self._interrupts = 0
        self._heard_at = 0.0
        context = zmq.Context()
        dealers = (self._socket(context, zmq.DEALER, connection, name) for name in ("shell", "control", "stdin"))
        self._shell, self._control, self._stdin = dealers
        self._iopub = self._socket(context, zmq.SUB, connection, "iopub")
        self._poller = zmq.Poller()
        for source in (self._shell, self._control, self._stdin, self._iopub, self._kernel.pidfd, *self._kernel.pipes):
            self._poller.register(source, zmq.POLLIN)

    def _socket(self, context: Any, kind: int, connection: Connection, name: str) -> Any:
        made = context.socket(kind)
        options = {zmq.LINGER: 0, zmq.RCVHWM: 0, zmq.SNDHWM: 0, zmq.MAXMSGSIZE: _MAX_MESSAGE_BYTES}
        options |= {zmq.RECONNECT_IVL: 10, zmq.RECONNECT_IVL_MAX: 200}
        for option, value in options.items():
            made.setsockopt(option, value)
        if kind == zmq.SUB:
            made.setsockopt(zmq.SUBSCRIBE, b"")
        else:
            made.setsockopt(zmq.IDENTITY, self._wire.session.encode("ascii"))
        made.connect(connection.address(name))
        return made

    # -- the start ------------------------------------------------------------------------------------------------------

    def wait_ready(self) -> None:
        """Wait until the kernel answers, publishes and is idle. Ends the process if it does not answer."""
        started = asked = time.monotonic()
        answered_at = 0.0
        heard = False
        self._ask()
        while not (answered_at and (heard or time.monotonic() - answered_at > _PUBLISHED_S)):
            self._poller.poll(100)
            self._read_log()
            heard = heard or any(message.parent for message in self._read(self._iopub))
            if any(message.kind == "kernel_info_reply" for message in self._read(self._shell)):
                answered_at = answered_at or time.monotonic()
            self._fail_if_ended()
            now = time.monotonic()
            if now - started > _READY_S:
                self._fail(f"The kernel did not answer within {_READY_S:.0f} s", 1)
            if now - asked > _ASK_AGAIN_S:
                asked = now
                self._ask()
        self._wait_rest()
        self._send({"op": "ready"})

    def _wait_rest(self) -> None:
        """ILua, for one, answers before its interpreter has started, and ends if it gets code before that."""
        looks, end = 0, time.monotonic() + _REST_S
        while looks < _REST_LOOKS and time.monotonic() < end:
            looks = looks + 1 if self._kernel.is_at_rest() else 0
            time.sleep(_LOOK_MS / 1000)
            self._read_log()
            self._fail_if_ended()

    def _fail_if_ended(self) -> None:
        code = self._kernel.returncode()
        if code is not None:
            self._read_log()
            self._fail("", code)

    def _ask(self) -> None:
        self._shell.send_multipart(self._wire.pack("kernel_info_request", {})[1])

    def _fail(self, reason: str, code: int) -> NoReturn:
        with contextlib.suppress(OSError):
            os.write(2, self._log + f"\n{reason}\n".encode())
        self._end(code or 1)

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Serve the agent until the kernel ends or the agent has gone."""
        self._poller.register(self._channel.fileno(), zmq.POLLIN)
        while True:
            self._wait()
            self._take_published()
            if self._kernel.returncode() is not None:
                self._last_words()
            self._read_commands()
            self._translate_some()
            for message in self._read(self._shell):
                self._heard_at = time.monotonic()
                self._send(*self._cells.replied(message))
            self._answer_input()
            self._read(self._control)
            self._read_log()
            self._end_run()
            self._flush()
            self._kernel.hold(self._held())

    def _wait(self) -> None:
        timeout_ms = 0 if self._published else _WATCH_MS if self._cells.answered and self._cells.running else 10_000
        events = zmq.POLLIN | (zmq.POLLOUT if self._outgoing else 0)
        self._poller.modify(self._channel.fileno(), events)
        self._poller.poll(timeout_ms)

    def _held(self) -> bool:
        """Whether to stop the kernel, with a lower limit for going on than for stopping."""
        limit = _LOW_BYTES if self._kernel.held else _HIGH_BYTES
        return self._waiting_bytes > limit

    def _take_published(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self._iopub.recv_multipart(zmq.NOBLOCK)
                self._heard_at = time.monotonic()
                self._published.append(frames)
                self._waiting_bytes += _weight(frames)
                if self._waiting_bytes > _HIGH_BYTES:
                    self._kernel.hold(True)

    def _translate_some(self) -> None:
        for _ in range(min(_ROUND_MESSAGES, len(self._published))):
            frames = self._published.popleft()
            self._waiting_bytes -= _weight(frames)
            message = self._wire.unpack(frames)
            if message is not None:
                self._send(*self._cells.published(message))

    def _end_run(self) -> None:
        if self._published:
            return
        patience_s = _INTERRUPTED_S if self._interrupts else _IDLE_S
        silent = self._cells.running and self._cells.answered and time.monotonic() - self._heard_at > patience_s
        if self._cells.is_over or silent:
            self._send(*self._cells.end())

    def _last_words(self) -> NoReturn:
        """The kernel has ended: send its last messages, and end the same way."""
        code = self._kernel.returncode() or 0
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._iopub.poll(_QUIET_MS) and time.monotonic() < deadline:
            self._take_published()
        while self._published:
            self._translate_some()
        self._read_log()
        if code:
            self._send(*self._cells.died(self._log.decode(errors="replace")[-_SHOWN_LOG:].strip()))
        self._channel.setblocking(True)
        self._flush()
        self._end(code)

    def _end(self, code: int) -> NoReturn:
        shutil.rmtree(self._directory, ignore_errors=True)
        end_like(code)

    # -- from the kernel ------------------------------------------------------------------------------------------------

    def _read(self, source: Any) -> list[Message]:
        found = []
        with contextlib.suppress(zmq.Again):
            while True:
                message = self._wire.unpack(source.recv_multipart(zmq.NOBLOCK))
                if message is not None:
                    found.append(message)
        return found

    def _answer_input(self) -> None:
        for message in self._read(self._stdin):
            if message.kind == "input_request":
                self._send(*self._cells.asked())
                self._stdin.send_multipart(self._wire.pack("input_reply", {"status": "ok", "value": "\x04"})[1])

    def _read_log(self) -> None:
        """Text on the kernel's descriptors 1 and 2 is its log, as in Jupyter: kernels repeat there what they publish."""
        for fd in list(self._kernel.pipes):
            for _ in range(_LOG_READS):
                if not (data := self._read_pipe(fd)):
                    break
                self._log = (self._log + data)[-_LOG_BYTES:]

    def _read_pipe(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._kernel.pipes.remove(fd)
            self._poller.unregister(fd)
        return data

    # -- to and from the agent ------------------------------------------------------------------------------------------

    def _read_commands(self) -> None:
        try:
            data = self._channel.recv(1 << 20)
        except BlockingIOError:
            return
        if not data:
            end_like(-signal.SIGKILL)
        self._incoming += data
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        for line in lines:
            command = json.loads(line)
            if command["op"] == "execute":
                self._execute(command["id"], command["code"])
            elif command["op"] == "interrupt":
                self._interrupt()

    def _execute(self, run_id: int, code: str) -> None:
        flags = {"silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        msg_id, frames = self._wire.pack("execute_request", {"code": code, "user_expressions": {}, **flags})
        self._interrupts = 0
        self._cells.begin(run_id, msg_id)
        self._shell.send_multipart(frames)

    def _interrupt(self) -> None:
        """At first interrupt in the kernelspec's way, then the kernel's descendants, too."""
        if not self._cells.running or self._cells.answered:
            return
        if self._spec.by_message:
            self._control.send_multipart(self._wire.pack("interrupt_request", {})[1])
        again = self._interrupts > 0
        if again or not self._spec.by_message:
            self._kernel.interrupt(itself=not self._spec.by_message, below=again)
        self._interrupts += 1

    def _send(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            line = json.dumps(message).encode("ascii") + b"\n"
            self._outgoing.append(line)
            self._waiting_bytes += len(line)

    def _flush(self) -> None:
        try:
            while self._outgoing:
                sent = self._channel.send(self._outgoing[0])
                self._waiting_bytes -= sent
                if sent == len(self._outgoing[0]):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = self._outgoing[0][sent:]
        except BlockingIOError:
            return
        except OSError:
            end_like(-signal.SIGKILL)


def _weight(frames: list[bytes]) -> int:
    """About how much memory a message uses."""
    return sum(map(len, frames)) + 600


def main(spec_directory: str) -> int:
    """Run the kernel of a kernelspec. Gives an exit code only if it could not be started."""
    signal.signal(signal.SIGINT, lambda _number, _frame: None)  # not SIG_IGN, which the kernel would inherit
    channel = socket.socket(fileno=int(os.environ.pop("CLOISTER_KERNEL_FD")))
    channel.set_inheritable(False)
    try:
        bridge = Bridge(channel, Spec.read(spec_directory), _runtime_directory())
    except (SpecError, OSError) as error:
        print(error, file=sys.stderr)
        return _UNUSABLE
    bridge.wait_ready()
    return bridge.run()


def _runtime_directory() -> Path:
    """A private directory, removed after the kernel's end. Also removes those of bridges that were killed before they could."""
    for left in Path(tempfile.gettempdir()).glob(f"{_DIRECTORY}*"):
        pid = left.name.removeprefix(_DIRECTORY).split("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}{os.getpid()}-"))
