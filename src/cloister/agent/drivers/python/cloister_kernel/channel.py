"""The Python driver's protocol socket: messages out, each after a flush of the streams, and messages in.

Signal handlers of user code run at any point of this module, and may raise. Invariants: a line is written completely or not at all (an
exception of a handler is raised after it), and no message that was read is lost.
"""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from cloister_kernel.streams import flush_streams, mend_streams

__all__ = ["Channel", "clean_json"]

_READ_BYTES = 1 << 18
_MAX_DEPTH = 200
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})


def clean_json(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one return a kind
    """``value`` as strict JSON: NaN and infinity become null, objects of unknown types become their text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")  # in the form of images
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > _MAX_DEPTH:
        return str(value)
    if isinstance(value, dict):
        return {str(key): clean_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean_json(item, depth + 1) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return clean_json(value.item(), depth + 1)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


class Channel:
    """The protocol socket. Any thread may send; a forked child cannot (``alive`` is false in it)."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._readable = select.poll()
        self._readable.register(fd, select.POLLIN)
        self._parts: list[bytes] = []
        self._open = True
        self._lock = threading.Lock()
        self._main_writes = False
        self._later: list[bytes] = []
        self._asked = 0
        self._taken = 0
        self.interruptible = False
        """Whether SIGINT raises KeyboardInterrupt now: only while user code runs."""
        self.interrupted = False
        """Whether a SIGINT has arrived since the run began."""
        self.alive = True
        self.run_id = 0
        self.on_renew: Callable[[], None] = lambda: None
        """Called when the agent asks for new random generators."""
        self.take_signals()

    def end_in_children(self) -> None:
        """Have forked children lose the channel. Once, and for good."""
        os.register_at_fork(after_in_child=self._abandon)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor, to wait for."""
        return self._socket.fileno()

    def take_signals(self) -> None:
        """Install our handler of SIGINT (again): user code may have installed another one."""
        signal.signal(signal.SIGINT, self._on_interrupt)

    def receive(self) -> dict[str, Any] | None:
        """The next message from the agent, or None if the agent has gone. Blocks. The caller passes an ``execute`` to :meth:`begin_run`."""
        while self._open:
            message = self._first()
            if message is None:
                self._read()
            elif message["op"] == "execute":
                return message
            else:
                self._drop_first()
                if message["op"] == "renew":
                    self.on_renew()
        return None

    def has_message(self) -> bool:
        """Whether a complete message was read ahead."""
        return any(b"\n" in part for part in self._parts)

    def begin_run(self, run_id: int) -> None:
        """The run of the last message begins."""
        self.run_id = run_id
        self.interrupted = False
        self._drop_first()
        mend_streams()

    def _first(self) -> dict[str, Any] | None:
        """The first complete message among the bytes read."""
        if not self.has_message():
            return None
        message: dict[str, Any] = json.loads(b"".join(self._parts).partition(b"\n")[0])
        return message

    def _drop_first(self) -> None:
        rest = b"".join(self._parts).partition(b"\n")[2]
        self._parts[:] = [rest] if rest else []

    def _read(self) -> None:
        """Wait for bytes and keep them. A signal handler may raise during the wait."""
        self._readable.poll()
        before = len(self._parts)
        # In one step, which no signal handler can interrupt: bytes that were read from the socket are kept.
        self._parts.extend(map(self._socket.recv, (_READ_BYTES,)))
        if not b"".join(self._parts[before:]):
            self._open = False

    def send(self, message: dict[str, Any], *, wait: bool = False) -> None:
        """Send one message, after all text printed before it; blocks while the agent does not read.

        With ``wait``, return when the agent has taken the message, so that later output cannot overtake it.
        """
        flush_streams()
        main = threading.current_thread() is threading.main_thread()
        wait = wait and main and self.interruptible and self.alive
        if wait:
            self._asked += 1
            message = {**message, "ack": self._asked}
        try:
            text = json.dumps(message, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            text = json.dumps(clean_json(message), allow_nan=False)
        line = text.encode("ascii") + b"\n"
        written = self._write_main(line) if main else self._write(line)
        if wait and written:
            self._wait_taken(self._asked)

    def _write_main(self, line: bytes) -> bool:
        """Whether it was written. If not, it is written after the message that a signal handler has interrupted."""
        if self._main_writes:
            self._later.append(line)
            return False
        self._main_writes = True
        try:
            return self._write(line)
        finally:
            self._main_writes = False

    def _write(self, line: bytes) -> bool:
        with self._lock:
            if self.alive:
                self._write_whole(line)
            while self.alive and self._later:
                self._write_whole(self._later.pop(0))
        return self.alive

    def _write_whole(self, line: bytes) -> None:
        sizes: list[int] = []
        raised: BaseException | None = None
        while sum(sizes) < len(line):
            try:
                while (done := sum(sizes)) < len(line):
                    sizes.extend(map(self._socket.send, (memoryview(line)[done:],)))  # in one step, as in _read()
            except BaseException as error:  # of a signal handler
                if isinstance(error, OSError) and error.errno in _GONE:
                    raise
                raised = error
        if raised is not None:
            raise raised

    def _wait_taken(self, number: int) -> None:
        """Read answers up to that of message ``number``; the agent sends nothing else while code runs."""
        while self._taken < number and self._open:
            message = self._first()
            if message is None:
                self._read()
                continue
            if message["op"] == "ack":
                self._taken = max(self._taken, message["ack"])
            self._drop_first()

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if not self.interruptible:
            return
        self.interrupted = True
        raise KeyboardInterrupt

    def _abandon(self) -> None:
        self.alive = False
        self.interruptible = False
        self._lock = threading.Lock()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._socket.close()
