"""The standard streams of the Python driver: text on descriptors 0, 1 and 2 with the properties of a plain interpreter's.

The program and its child processes print through the same pipes: the kernel keeps the order among them, forked children can print, and a
full pipe slows the program. Invariant: whatever a cell did to the streams or their descriptors, the next one can print
(:func:`mend_streams`); streams that user code installed stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import os
import subprocess
import sys
import threading
from typing import Any

__all__ = ["OutStream", "flush_streams", "forget_descriptors", "install_streams", "mend_streams", "renew_streams"]

_FLUSH_AFTER_S = 0.05
_BUFFER_BYTES = 1 << 16
_FIRST_COPY = 32
"""Copies of the pipes have descriptors from this number on."""
_NO_INPUT = "The program reads standard input, which is empty here. Put the data into a variable or a file.\n"


class OutStream(io.TextIOWrapper):
    """Text on a descriptor: one write(2) for text that ends in a newline (one ``print`` is one message); other text follows soon."""

    _flusher: _Flusher

    def write(self, text: str, /) -> int:
        """Write text. Text that ends in a newline is out on return."""
        count = super().write(text)
        if text.endswith("\n"):
            self.flush()
        elif text:
            self._flusher.kick()
        return count


class _Buffer(io.BufferedWriter):
    """Keep it open: user code wraps it (``io.TextIOWrapper(sys.stdout.buffer)``), and a wrapper closes its buffer when it is collected."""

    def close(self) -> None:
        """Flush only."""
        self.flush()


class _Input(io.FileIO):
    """Standard input. It is empty, and says so once a run."""

    noted = False

    def readinto(self, buffer: Any, /) -> int:
        """See io.TextIOWrapper."""
        count: int = super().readinto(buffer)
        if not count and len(buffer):
            self._note()
        return count

    def readall(self) -> bytes:
        """See io.TextIOWrapper."""
        data = super().readall()
        if not data:
            self._note()
        return data

    def _note(self) -> None:
        if self.noted or os.fstat(self.fileno()).st_rdev != os.makedev(1, 3):
            return  # user code has replaced /dev/null
        self.noted = True
        sys.stderr.write(_NO_INPUT)


class _Flusher:
    """Flushes unfinished lines, from a thread that exists only while there are any (a fork wants no threads)."""

    def __init__(self, streams: list[OutStream]) -> None:
        self._streams = streams
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        os.register_at_fork(before=self.rest, after_in_child=self._forget)

    def kick(self) -> None:
        """A stream has an unfinished line."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stdout flush", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the sandbox has reached its bound of processes and threads
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
        """Flush all streams that can be flushed."""
        for stream in self._streams:
            with contextlib.suppress(OSError, ValueError):  # closed by user code
                stream.flush()

    def _forget(self) -> None:
        self._thread = None
        self._stop = threading.Event()


class _Streams:
    """The three streams. They are renewed in place, so that a module that holds one of them keeps the right one."""

    def __init__(self) -> None:
        self._stdin = io.TextIOWrapper(io.BufferedReader(_Input(0, closefd=False)), encoding="utf-8", errors=sys.stdin.errors)
        self._out = {1: _make_output(1), 2: _make_output(2)}
        self._copies: dict[int, int] = {}
        self._pipes: dict[int, tuple[int, int]] = {}
        self._flusher = _Flusher(list(self._out.values()))
        for name, stream in (("stdin", self._stdin), ("stdout", self._out[1]), ("stderr", self._out[2])):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        _flush_before_children(self._flusher)

        for fd, stream in self._out.items():
            _initialize_output(fd, stream, self._flusher)

    def renew(self) -> None:
        """Use the present descriptors, and keep copies of them."""
        raw = self._stdin.buffer.raw
        raw.__init__(0, closefd=False)  # type: ignore[misc]  # what it knows of the descriptor is found anew
        raw.name, self._stdin.mode = "<stdin>", "r"  # type: ignore[misc]  # as the interpreter sets them
        self._stdin.__init__(self._stdin.buffer, encoding="utf-8", errors=self._stdin.errors)  # type: ignore[misc]  # in place
        for fd, stream in self._out.items():
            _initialize_output(fd, stream, self._flusher)
            self._copies[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_COPY)
            self._pipes[fd] = _identity(fd)

    def forget(self) -> None:
        """Close the copies."""
        for fd in self._copies.values():
            os.close(fd)
        self._copies.clear()
        self._pipes.clear()

    def mend(self) -> None:
        """Restore pipes that an earlier cell closed or replaced."""
        self._stdin.buffer.raw.noted = False
        for fd, stream in self._out.items():
            if _identity(fd) != self._pipes[fd]:
                os.dup2(self._copies[fd], fd)
            os.set_blocking(fd, True)
            name = "stdout" if fd == 1 else "stderr"
            if not _is_usable(getattr(sys, name, None)):
                if not _is_usable(stream):
                    _initialize_output(fd, stream, self._flusher)
                setattr(sys, name, stream)


def _make_output(fd: int) -> OutStream:
    return OutStream(_Buffer(io.FileIO(fd, "w", closefd=False), _BUFFER_BYTES))


_buffers: dict[int, Any] = {}
"""The buffers of the output streams, if user code has detached one."""


def _initialize_output(fd: int, stream: OutStream, flusher: _Flusher) -> None:
    if fd not in _buffers:
        _buffers[fd] = stream.buffer
    buffer = _buffers[fd]
    raw: Any = io.FileIO(fd, "w", closefd=False)  # a new buffer: an old one remembers whether its descriptor could seek
    raw.name = "<stdout>" if fd == 1 else "<stderr>"
    buffer.__init__(raw, _BUFFER_BYTES)
    line_buffering = fd == 2  # as in a plain interpreter
    stream.__init__(buffer, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=line_buffering)  # type: ignore[misc]  # in place
    stream._flusher = flusher
    stream.mode = "w"  # type: ignore[misc]  # libraries look at it, as on any text file


def _identity(fd: int) -> tuple[int, int]:
    try:
        found = os.fstat(fd)
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


def _is_usable(stream: Any) -> bool:
    try:
        return stream is not None and not getattr(stream, "closed", False)
    except ValueError:  # detached
        return False


def _flush_before_children(flusher: _Flusher) -> None:
    """Write out an unfinished line before a child process can write: subprocess and os.system fork without our fork hook."""
    place: Any = subprocess
    if not hasattr(subprocess, "_fork_exec"):  # before Python 3.11
        place = subprocess._posixsubprocess  # type: ignore[attr-defined]  # CPython's own
    name = "_fork_exec" if place is subprocess else "fork_exec"
    fork_exec, system = getattr(place, name), os.system

    def flushed_fork_exec(*args: Any) -> Any:
        flusher.flush()
        flush_streams()
        return fork_exec(*args)

    @functools.wraps(system)
    def flushed_system(command: Any) -> int:
        flusher.flush()
        flush_streams()
        return system(command)

    setattr(place, name, flushed_fork_exec)
    os.system = flushed_system


_streams: list[_Streams] = []


def install_streams() -> None:
    """Install our streams in place of the interpreter's; :func:`renew_streams` makes them ready."""
    _streams.append(_Streams())


def renew_streams() -> None:
    """From now on the descriptors are those of the kernel's own agent."""
    _streams[0].renew()


def forget_descriptors() -> None:
    """Undo what :func:`renew_streams` keeps of the descriptors."""
    _streams[0].forget()


def mend_streams() -> None:
    """Before each run."""
    _streams[0].mend()


def flush_streams() -> None:
    """Flush the streams that the program prints to, also its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # user code closed or replaced it
