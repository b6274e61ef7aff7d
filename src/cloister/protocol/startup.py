"""When a template's sandbox has started: how often its ready command is asked, and how a start that failed is put into words.

Pure. Shared by the agent, which starts sandboxes, and by the trial at the end of a template's build.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Attempt", "Tail", "never_ready", "ready_pauses", "start_died"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.05, 2.0, 1.25
_TAIL_BYTES = 2000
_SHOWN_LINES = 12
_SHOWN_COMMAND = 200


@dataclass(frozen=True)
class Attempt:
    """One run of the ready command that did not pass: ``status`` in the words of Go's ``os.ProcessState``."""

    status: str
    said: str


class Tail:
    """The end of what a program wrote, whatever it wrote."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        """More output."""
        self._kept = (self._kept + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def text(self) -> str:
        """Its last lines."""
        lines = self._kept.decode("utf-8", "replace").split("\n")
        return "\n".join([line.rstrip() for line in lines if line.strip()][-_SHOWN_LINES:])


def ready_pauses() -> Iterator[float]:
    """Seconds between two runs of the ready command: short at first, since most programs are quick; never long."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * _GROWTH, _LONGEST_PAUSE_S)


def start_died(command: str, status: str, said: str) -> str:
    """A start command that ended with an error before the sandbox was ready."""
    return f"the start command '{_shown(command)}' ended before the sandbox was ready: {status}{_quoted(said)}"


def never_ready(command: str, timeout_s: float, attempts: int, last: Attempt | None, *, start_ended: bool = False) -> str:
    """A ready command that did not pass in time. ``last`` is None when its first run did not end."""
    started = "; the start command has ended with status 0" if start_ended else ""
    how = "it did not end" if last is None else f"it was run {attempts} times, the last one: {last.status}{_quoted(last.said)}"
    return f"the ready command '{_shown(command)}' did not succeed within {timeout_s:g} s{started}: {how}"


def _shown(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= _SHOWN_COMMAND else line[:_SHOWN_COMMAND] + "…"


def _quoted(said: str) -> str:
    return f"; its last output:\n{said}" if said else "; it printed nothing"
