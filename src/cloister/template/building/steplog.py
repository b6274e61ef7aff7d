"""The form of a build's log for its client: titles of steps, and the output of programs line by line."""

from __future__ import annotations

from typing import Self

from cloister.model.build import BuildStep
from cloister.template.interfaces import BuildLog

__all__ = ["OutputLines", "title"]

_MAX_TITLE = 200
_MAX_LINE = 4096


def title(step: BuildStep) -> str:
    """The step in one line. Shows only the names of variables, because a value may be a secret."""
    words = list(step.args[::2]) if step.kind == "ENV" else list(step.args[:2] if step.kind == "COPY" else step.args[:1])
    text = " ".join([step.kind, *words])
    line = text.strip().split("\n", 1)[0]
    return line if line == text and len(line) <= _MAX_TITLE else f"{line[:_MAX_TITLE]}…"


class OutputLines:
    """Takes output in pieces and logs its lines, each stream separately. An overwritten line is logged in its last state.

    A context; its end logs the lines that have no end yet.
    """

    def __init__(self, log: BuildLog, step: str) -> None:
        self._log = log
        self._step = step
        self._partial: dict[str, bytes] = {}

    def __call__(self, stream: str, data: bytes) -> None:
        """More of ``stream``."""
        *lines, rest = (self._partial.get(stream, b"") + data).split(b"\n")
        for line in lines:
            self._add(line)
        whole = max(0, len(rest) - 1) // _MAX_LINE * _MAX_LINE
        if whole:
            self._add(rest[:whole])
        self._partial[stream] = rest[whole:]

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """See :meth:`finish`."""
        self.finish()

    def finish(self) -> None:
        """The output is complete: log lines that have no end."""
        for rest in self._partial.values():
            if rest:
                self._add(rest)
        self._partial.clear()

    def _add(self, line: bytes) -> None:
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        for start in range(0, max(len(shown), 1), _MAX_LINE):
            self._log.add("info", shown[start : start + _MAX_LINE].decode(errors="replace"), self._step)
