"""Runs a program in a sandbox on this process's standard streams or terminal, and returns the program's own exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from cloister.client.sandbox import Process, Program, SandboxClient
from cloister.errors import CloisterError, InvalidRequestError
from cloister.model.text import printable
from cloister.protocol.process import EndEvent, ProcessEvent, TerminalSize

__all__ = ["CANNOT_START", "local_size", "needs_terminal", "run_attached"]

CANNOT_START = 126
"""Exit code of a command that the sandbox could not start, as of env(1)."""
_TERMINATE_S = 10.0
_PIECE_BYTES = 256 << 10
_PIECES = 16
"""Of input, that are kept at a time."""


def needs_terminal() -> None:
    """Raises: InvalidRequestError: standard input or output is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequestError("a terminal is needed on standard input and output", hint="`cloister exec` runs commands without one")


def local_size() -> TerminalSize:
    """The size of the terminal of this process."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return TerminalSize(cols=size.columns, rows=size.lines)


async def run_attached(sandbox: SandboxClient, program: Program) -> int:
    """Run ``program``; with a terminal if it has a size. If this task is cancelled or output fails, the program gets SIGTERM."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            process = await stack.enter_async_context(sandbox.start(program))
        except InvalidRequestError as error:
            print(f"cloister: {error}", file=sys.stderr)
            return CANNOT_START
        with _raw_terminal(process) if program.size is not None else contextlib.nullcontext():
            if program.has_input or program.size is not None:
                _feed(process)
            try:
                return await _follow(process)
            except (asyncio.CancelledError, OSError):
                with contextlib.suppress(CloisterError, OSError):
                    async with asyncio.timeout(_TERMINATE_S):  # the sandbox may never answer, and later signals are ignored
                        await process.terminate()
                raise


async def _follow(process: Process) -> int:
    async for event in process.events:
        if event.end is not None:
            return _code_of(event.end)
        await asyncio.to_thread(_write, event)
    raise InvalidRequestError("the process has no end")


def _write(event: ProcessEvent) -> None:
    data = event.data
    if data is not None:
        _write_all(2, data.stderr) if data.stderr is not None else _write_all(1, data.stdout or data.pty or b"")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _code_of(end: EndEvent) -> int:
    """The exit code; 128 and the number for a signal, as a shell says it."""
    if end.exited:
        return end.exit_code & 0xFF
    names = {(signal.strsignal(one) or "").lower(): int(one) for one in signal.valid_signals()}
    print(f"cloister: the program was ended by a {printable(end.error or end.status)}", file=sys.stderr)
    return 128 + names.get(end.status.removeprefix("signal: ").lower(), signal.SIGKILL)


def _feed(process: Process) -> None:
    """Pass standard input on, as fast as the process reads it. The thread ends with this process: a read cannot be cancelled.

    Each call takes all that was read during the former one.
    """
    loop, pieces = asyncio.get_running_loop(), queue.Queue[bytes](_PIECES)

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = os.read(0, _PIECE_BYTES)
            except OSError:  # a terminal that is gone
                data = b""
            pieces.put(data)

    def send() -> None:
        with contextlib.suppress(RuntimeError, CloisterError, OSError, asyncio.CancelledError):  # the program or this process has ended
            is_open = True
            while is_open:
                found = [pieces.get()]
                while found[-1] and not pieces.empty():
                    found.append(pieces.get())
                is_open = bool(found[-1])
                if (data := b"".join(found)) and not asyncio.run_coroutine_threadsafe(process.send(data), loop).result():
                    return
            asyncio.run_coroutine_threadsafe(process.close_input(), loop).result()

    for work in (read, send):
        threading.Thread(target=work, daemon=True, name=f"input {work.__name__}").start()


@contextlib.contextmanager
def _raw_terminal(process: Process) -> Iterator[None]:
    """The local terminal passes on every key, and its size, while the block lasts."""
    loop, resizing = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def resize() -> None:
        task = loop.create_task(process.resize(local_size()))
        resizing.add(task)
        task.add_done_callback(resizing.discard)

    former = termios.tcgetattr(0)
    loop.add_signal_handler(signal.SIGWINCH, resize)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, former)
        loop.remove_signal_handler(signal.SIGWINCH)
