"""One process from start to end: its output into the log, its input in order, its signals, its exit.

States: running → exited (reaped; children may still hold its pipes) → ended (``result`` is set, readers end). The end is reported when all
pipes are closed, or shortly after the exit if a child in the background holds them. Later output of such a child goes into the log's tail,
so it never writes to a closed pipe. This module does not know clients: when one disconnects, the process does not change.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from cloister.agent.process.launch import Launch, launch, set_size
from cloister.agent.process.output import PTY, OutputLog, Reader
from cloister.agent.process.tree import Killer, signal_tree
from cloister.errors import ConflictError, InvalidRequestError
from cloister.protocol.process import EndEvent

__all__ = ["OutOfMemory", "Process"]

_READ_BYTES = 64 << 10
_QUIET_S = 0.3
_HELD_S = 2.0
"""The end is reported when no output came for the first time, and at the latest after the second."""
_STALL_S = 30.0
"""How long a reader may block the process without reading."""


@dataclass(frozen=True)
class OutOfMemory:
    """Gives the number of kills for lack of memory so far, or None if it is unknown. It tells such a kill from another SIGKILL."""

    kills: Callable[[], int | None]
    limit_mib: int

    def explain(self, returncode: int, kills_before: int | None) -> str:
        """The note for an end by SIGKILL, of the process or (as shells report it) of its last child."""
        if returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL) or (self.kills() or 0) <= (kills_before or 0):
            return ""
        return f" (out of memory: the sandbox has {self.limit_mib} MiB)"


class Process:
    """A started process. ``on_end`` is called once, when ``result`` is set."""

    def __init__(self, what: Launch, max_spool_bytes: int, memory: OutOfMemory, on_end: Callable[[], None]) -> None:
        """Start it.

        Raises: InvalidRequestError, LimitError.
        """
        self._loop = asyncio.get_running_loop()
        self._memory = memory
        self._kills_before = memory.kills()
        self._started = launch(what)
        self._on_end = on_end
        self.is_terminal = what.size is not None
        self._open = dict(self._started.outputs)
        self._paused = False
        self._read_at = self._exited_at = 0.0
        self._returncode: int | None = None
        self._stdin = self._started.stdin
        self._input_order = asyncio.Lock()
        self._input_ready: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self.pid = self._started.process.pid
        self._killer = Killer(self.pid)
        self.log = OutputLog(max_spool_bytes, self._resume)
        self.result: EndEvent | None = None
        self.is_expired = False
        for fd in self._open:
            self._loop.add_reader(fd, self._read, fd)
        self._loop.add_reader(self._started.pidfd, self._reap)

    # --- what clients ask for ---

    def kill_after(self, timeout_s: float) -> None:
        """Kill the whole tree if it still runs at that time, whether or not a client is connected."""
        self._deadline = self._loop.call_later(timeout_s, self._expire)

    def signal(self, number: int) -> bool:
        """Signal the process and everything below it; after its exit, the rest of that. False: no process is left."""
        if number == signal.SIGKILL:
            return self._killer.kill()
        return signal_tree(self.pid, number) > 0

    def resize(self, size: tuple[int, int]) -> None:
        """Resize its terminal.

        Raises: ConflictError (it has none, or its terminal is closed), InvalidRequestError.
        """
        if not self.is_terminal:
            raise ConflictError(f"process {self.pid} has no terminal")
        if self._stdin is None:
            raise ConflictError(f"the terminal of process {self.pid} is closed")
        set_size(self._stdin, size)

    async def write(self, data: bytes, *, to_terminal: bool) -> None:
        """Give it input, after all earlier input. Returns when the process or its pipe has taken everything.

        Raises: ConflictError (its input is closed), InvalidRequestError (the other kind of input).
        """
        if to_terminal != self.is_terminal:
            kind = "a terminal: send 'pty' input" if self.is_terminal else "no terminal: send 'stdin' input"
            raise InvalidRequestError(f"process {self.pid} has {kind}")
        async with self._input_order:
            rest = memoryview(data)
            while rest:
                rest = rest[await self._write_some(rest) :]

    async def close_stdin(self) -> None:
        """End the input, after all earlier input. A second call does nothing.

        Raises: ConflictError: it has a terminal.
        """
        if self.is_terminal:
            raise ConflictError(f"process {self.pid} has a terminal: send it Ctrl+D (byte 4) instead of closing its input")
        async with self._input_order:
            self._close_input()

    # --- input ---

    async def _write_some(self, data: memoryview) -> int:
        while self._stdin is not None:
            try:
                return os.write(self._stdin, data)
            except BlockingIOError:
                await self._input_room(self._stdin)
            except OSError:  # EPIPE: it has closed its end; EIO: the terminal is gone
                break
        raise ConflictError(f"the input of process {self.pid} is closed")

    async def _input_room(self, fd: int) -> None:
        ready = self._input_ready = self._loop.create_future()
        self._loop.add_writer(fd, _settle, ready)
        try:
            await ready
        finally:
            self._input_ready = None
            if self._stdin is not None:
                self._loop.remove_writer(fd)

    def _close_input(self) -> None:
        """Close the agent's end, unless it is a terminal, which also carries the output."""
        fd, self._stdin = self._stdin, None
        if fd is None:
            return
        self._loop.remove_writer(fd)
        if self._input_ready is not None:
            _settle(self._input_ready)
        if not self.is_terminal:
            os.close(fd)

    # --- output ---

    def _read(self, fd: int) -> bool:
        """Read what is there. False: nothing now, or the end."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: no process has the terminal open any more
            data = b""
        if not data:
            self._close_output(fd)
            return False
        self._read_at = self._loop.time()
        self.log.append(self._open[fd], data)
        if self.log.is_full and not self._paused:
            self._pause()
        return True

    def _close_output(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        if self._open.pop(fd) == PTY:
            self._close_input()
        os.close(fd)
        self._end_if_done()

    def _pause(self) -> None:
        self._paused = True
        for fd in self._open:
            self._loop.remove_reader(fd)
        self._watch_stalled()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._stall is not None:
                self._stall.cancel()
            for fd in self._open:
                self._loop.add_reader(fd, self._read, fd)

    def _watch_stalled(self) -> None:
        self._stall = self._loop.call_later(_STALL_S, self._cut_stalled, self.log.places())

    def _cut_stalled(self, places: dict[Reader, int]) -> None:
        for reader in self.log.stalled_readers(places):
            reader.cut()
        self._watch_stalled()

    # --- the end ---

    def _expire(self) -> None:
        if self._returncode is None:
            self.is_expired = True
            self._killer.kill()

    def _reap(self) -> None:
        returncode = self._started.process.poll()
        if returncode is None:
            return
        self._loop.remove_reader(self._started.pidfd)
        os.close(self._started.pidfd)
        self._returncode = returncode
        self._exited_at = self._read_at = self._loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        for fd in list(self._open):  # the process's own output is in the pipes now, at most a pipe's size in each
            while fd in self._open and not self._paused and self._read(fd) and self._loop.time() < self._exited_at + _QUIET_S:
                pass
        self._end_if_done()

    def _end_if_done(self) -> None:
        """Called after the exit when an output was closed, and by a timer."""
        if self.result is not None or self._returncode is None:
            return
        now = self._loop.time()
        due_at = min(self._read_at + _QUIET_S, self._exited_at + _HELD_S)
        if self._open and (now < due_at or self._paused):
            self._loop.call_later(max(_QUIET_S / 10, due_at - now), self._end_if_done)
            return
        if not self.is_terminal:
            self._close_input()
        self.result = _end_event(self._returncode, self._memory.explain(self._returncode, self._kills_before))
        self.log.finish()
        self._on_end()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _end_event(returncode: int, reason: str) -> EndEvent:
    """The status in the words that clients know, those of Go's ``os.ProcessState``; ``reason`` is ours."""
    status = f"exit status {returncode}" if returncode >= 0 else f"signal: {_signal_name(-returncode)}"
    return EndEvent(
        exit_code=max(returncode, -1),
        exited=returncode >= 0,
        status=status,
        error=status + reason if returncode else None,
    )


def _signal_name(number: int) -> str:
    try:
        name = signal.strsignal(number) or ""
    except ValueError:
        name = ""
    return name[:1].lower() + name[1:] or f"signal {number}"
