"""The start of a template's sandbox: how often the ready command runs, and the texts for a start that failed.

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
    """One run of the ready command that failed: ``status`` in the words of Go's ``os.ProcessState``."""

    status: str
    said: str


class Tail:
    """The end of a program's output, however long it is."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        """Add output."""
        self._kept = (self._kept + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def text(self) -> str:
        """Its last lines."""
        lines = self._kept.decode("utf-8", "replace").split("\n")
        return "\n".join([line.rstrip() for line in lines if line.strip()][-_SHOWN_LINES:])


def ready_pauses() -> Iterator[float]:
    """Seconds between two runs of the ready command: short at first, since most programs start fast; bounded."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * _GROWTH, _LONGEST_PAUSE_S)


def start_died(command: str, status: str, said: str) -> str:
    """The text for a start command that failed before the sandbox was ready."""
    return f"the start command '{_shown(command)}' ended before the sandbox was ready: {status}{_quoted(said)}"


def never_ready(command: str, timeout_s: float, attempts: int, last: Attempt | None, *, start_ended: bool = False) -> str:
    """The text for a ready command that did not succeed in time. ``last`` is None if its first run did not end."""
    started = "; the start command has ended with status 0" if start_ended else ""
    how = "it did not end" if last is None else f"it was run {attempts} times, the last one: {last.status}{_quoted(last.said)}"
    return f"the ready command '{_shown(command)}' did not succeed within {timeout_s:g} s{started}: {how}"


def _shown(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= _SHOWN_COMMAND else line[:_SHOWN_COMMAND] + "…"


def _quoted(said: str) -> str:
    return f"; its last output:\n{said}" if said else "; it printed nothing"
