"""The Python driver's way out: protocol messages on the socket, and sys.stdout and sys.stderr on fd 1 and 2.

What the program prints goes through the same pipes as what its child processes write, so the order among them is the kernel's
own, forked children can print, and a full pipe is the back-pressure. Messages go over the socket, each after a flush of the
streams, so that everything printed before it is in the pipe already.

Invariant: a protocol line is written whole or not at all: an interrupt that arrives meanwhile is raised after it.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

__all__ = ["Channel", "OutStream", "clean_json", "install_streams"]

_FLUSH_AFTER_S = 0.05
_MAX_DEPTH = 200


def clean_json(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911  # one return a kind
    """``value`` as strict JSON has it: no NaN or infinity (they become null), no unknown types (they become their text)."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")  # as images are sent
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
    """The protocol socket. Any thread may send; a forked child cannot (``alive`` is false there)."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._buffer = b""
        self._lock = threading.Lock()
        self._sending = False
        self._deferred = False
        self.interruptible = False
        """Whether SIGINT raises KeyboardInterrupt now: only while user code runs."""
        self.interrupted = False
        """Whether one has arrived since the run began."""
        self.alive = True
        self.run_id = 0
        os.register_at_fork(after_in_child=self._abandon)
        self.take_signals()

    def fileno(self) -> int:
        """The socket's descriptor, to be waited on."""
        return self._socket.fileno()

    def take_signals(self) -> None:
        """Make SIGINT ours (again): user code may have set another handler."""
        signal.signal(signal.SIGINT, self._on_interrupt)

    def receive(self) -> dict[str, Any] | None:
        """The next message from the agent, or None when the agent has gone. Blocks."""
        while b"\n" not in self._buffer:
            data = self._socket.recv(1 << 18)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def has_message(self) -> bool:
        """Whether a whole message was read ahead."""
        return b"\n" in self._buffer

    def send(self, message: dict[str, Any]) -> None:
        """Send one message, after what was printed before it; blocks while the agent does not read."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue  # user code closed or replaced it
        try:
            text = json.dumps(message, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            text = json.dumps(clean_json(message), allow_nan=False)
        line = text.encode("ascii") + b"\n"
        main = threading.current_thread() is threading.main_thread()
        with self._lock:
            if not self.alive:
                return
            self._sending = main
            try:
                self._socket.sendall(line)
            finally:
                self._sending = self._sending and not main
        if main and self._deferred:
            self._deferred = False
            raise KeyboardInterrupt

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if not self.interruptible:
            return
        self.interrupted = True
        if self._sending:
            self._deferred = True
            return
        raise KeyboardInterrupt

    def end_run(self) -> None:
        """From here on an interrupt does nothing; one that waits is forgotten."""
        self.interruptible = False
        self._deferred = False

    def _abandon(self) -> None:
        self.alive = False
        self.interruptible = False
        self._lock = threading.Lock()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._socket.close()


class OutStream(io.TextIOWrapper):
    """Text on a descriptor: one write(2) for what ends in a newline (one ``print`` is one message), soon after for the rest."""

    _flusher: _Flusher

    def write(self, text: str, /) -> int:
        """Write text; it is out on return when it ends in a newline."""
        count = super().write(text)
        if text.endswith("\n"):
            self.flush()
        elif text:
            self._flusher.kick()
        return count


class _Flusher:
    """Flushes lines that have no end yet, from a thread that lives only while there are any (forking wants no threads)."""

    def __init__(self, streams: list[OutStream]) -> None:
        self._streams = streams
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        os.register_at_fork(before=self.rest, after_in_child=self._forget)

    def kick(self) -> None:
        """Something unfinished was written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stdout flush", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the sandbox has as many processes and threads as it may
                self._thread = None
                self.flush()

    def rest(self) -> None:
        """Flush now and end the thread."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._stop.set()
            thread.join(1)
            self._stop.clear()
        self.flush()

    def _run(self) -> None:
        self._stop.wait(_FLUSH_AFTER_S)
        self._thread = None
        self.flush()

    def flush(self) -> None:
        """Flush all that can be."""
        for stream in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # closed by user code

    def _forget(self) -> None:
        self._thread = None
        self._stop = threading.Event()


def install_streams() -> None:
    """Put our streams in the place of sys.stdout and sys.stderr."""
    streams = []
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False), 1 << 16)
        stream = OutStream(raw, encoding="utf-8", errors="backslashreplace", newline="\n")
        stream.mode = "w"  # type: ignore[misc]  # libraries look at it, as on any text file
        streams.append(stream)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    flusher = _Flusher(streams)
    for stream in streams:
        stream._flusher = flusher
    _flush_before_children(flusher)


def _flush_before_children(flusher: _Flusher) -> None:
    """Let an unfinished line out before a child process can write: subprocess and os.system fork without our fork hook."""
    place: Any = subprocess
    if not hasattr(subprocess, "_fork_exec"):  # before Python 3.11
        place = subprocess._posixsubprocess  # type: ignore[attr-defined]
    name = "_fork_exec" if place is subprocess else "fork_exec"
    fork_exec, system = getattr(place, name), os.system

    def flushed_fork_exec(*args: Any) -> Any:
        flusher.flush()
        return fork_exec(*args)

    @functools.wraps(system)
    def flushed_system(command: Any) -> int:
        flusher.flush()
        return system(command)

    setattr(place, name, flushed_fork_exec)
    os.system = flushed_system
