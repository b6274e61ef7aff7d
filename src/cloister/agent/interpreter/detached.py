"""Output of a run whose client a pause or a copy of the sandbox has taken: it goes on, and the next run of its context tells of it. Pure.

Keeps the newest text, up to a bound, and the error. Results and images are not kept: they would look like those of the next run.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloister.agent.interpreter.kernel import Display, Failure, KernelEvent, Output

__all__ = ["DetachedOutput"]

_MAX_CHARACTERS = 64 << 10


class DetachedOutput:
    """The events of one run since its client went."""

    def __init__(self) -> None:
        self._text = ""
        self._omitted = 0
        self._results = 0
        self._failure: Failure | None = None

    def add(self, events: Sequence[KernelEvent]) -> None:
        """Take events of the run."""
        for event in events:
            if isinstance(event, Output):
                self._text += event.text
            elif isinstance(event, Failure):
                self._failure = event
            elif isinstance(event, Display):
                self._results += 1
        if (excess := len(self._text) - _MAX_CHARACTERS) > 0:
            self._omitted += excess
            self._text = self._text[excess:]

    def notice(self, *, is_copy: bool = False) -> str:
        """The text for stderr of the next run. ``is_copy``: it lost its client as the sandbox is a copy."""
        how = "without an error" if self._failure is None else f"with {self._failure.name}: {self._failure.value[:1000]}"
        when = "when this copy of the sandbox was made. It went on" if is_copy else "at a pause of the sandbox. It went on after the resume"
        lines = [f"The run before this one lost its client {when} and ended {how}."]
        if self._results:
            what = "a result that was" if self._results == 1 else f"{self._results} results that were"
            lines.append(f"It gave {what} not kept.")
        if self._text:
            cut = f" ({self._omitted} characters before it were not kept)" if self._omitted else ""
            lines.append(f"Its output since the pause{cut}:")
            lines.append(self._text.removesuffix("\n"))
        return "\n".join(lines) + "\n"
