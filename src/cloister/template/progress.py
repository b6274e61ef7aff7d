"""The output of ``cloister template build``: one line for each step, with its time.

A terminal shows the running step with its latest output. Other streams get plain lines. This module only formats. A build's output comes
from foreign programs, so control characters never reach the terminal.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from typing import TextIO

from cloister.template.stock import StockStep

__all__ = ["PlainProgress", "TerminalProgress", "make_progress"]

_STATUS = re.compile(r"(?:dl|pm)status:[^:]*:([0-9.]+):(.*)")
_SPINNER = "|/-\\"
_HEARTBEAT_S = 20.0


def make_progress(stream: TextIO) -> PlainProgress:
    """The progress for ``stream``: a terminal or any other."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress:
    """Prints a line when a step starts, at intervals while it runs, and when it ends."""

    def __init__(self, stream: TextIO, heartbeat_s: float = _HEARTBEAT_S) -> None:
        self._stream = stream
        self._heartbeat_s = heartbeat_s
        self._head = ""
        self._note = ""
        self._started = self._said = time.monotonic()

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        """A step begins. Its layer may exist already."""
        self._head = f"{template} [{index}/{total}] {step.title}"
        self._note = ""
        self._started = self._said = time.monotonic()

    def step_waiting(self) -> None:
        """Another process builds this layer; the build waits for its end."""
        self._say(f"{self._head}: waiting for another build of this layer")

    def step_output(self, line: str) -> None:
        """One line of the step's output."""
        if match := _STATUS.match(line):
            line = f"{float(match[1]):3.0f}% {match[2]}"
        self._note = "".join(char for char in line if char.isprintable())
        if time.monotonic() - self._said > self._heartbeat_s:
            self._say(f"{self._head}: {self._elapsed()} {self._note[:100]}")

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        """The step's layer is there."""
        how = "cached" if cached else f"{elapsed_s:.0f} s"
        size = "" if size_bytes is None else f", {size_bytes / 2**20:.0f} MiB"
        self._say(f"{self._head}: done ({how}{size})")

    def step_failed(self) -> None:
        """The step failed or was interrupted."""
        self._say(f"{self._head}: failed after {self._elapsed()}")

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60}:{seconds % 60:02}"

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=self._stream, flush=True)


class TerminalProgress(PlainProgress):
    """The same on a terminal: a thread redraws the line of the running step a few times a second."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, heartbeat_s=float("inf"))
        self._stop = threading.Event()
        self._drawer: threading.Thread | None = None

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        """See :class:`PlainProgress`."""
        super().step_started(template, index, total, step)
        self._stop = threading.Event()
        self._drawer = threading.Thread(target=self._draw, args=(self._stop,), daemon=True)
        self._drawer.start()

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        """See :class:`PlainProgress`."""
        self._end_drawing()
        super().step_done(elapsed_s, size_bytes, cached=cached)

    def step_failed(self) -> None:
        """See :class:`PlainProgress`."""
        self._end_drawing()
        super().step_failed()

    def step_waiting(self) -> None:
        """See :class:`PlainProgress`."""
        self._note = "waiting for another build of this layer"

    def _draw(self, stop: threading.Event) -> None:
        turn = 0
        while not stop.wait(0.2):
            turn += 1
            text = f"{_SPINNER[turn % 4]} {self._head} {self._elapsed()} {self._note}"
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=self._stream, flush=True)

    def _end_drawing(self) -> None:
        self._stop.set()
        if self._drawer is not None:
            self._drawer.join()
        print("\r\x1b[K", end="", file=self._stream, flush=True)
