"""Times the steps of creations, and keeps those of the newest ones for a client that traces its requests.

Costs a creation some microseconds. Event loop only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from cloister.model.node import TimedStep

__all__ = ["NewestSteps", "StepTimes"]

_KEPT = 256


class StepTimes:
    """The steps of one creation, which begins now."""

    def __init__(self) -> None:
        self._began_at = time.time()
        self._done: list[tuple[str, float]] = []

    def done(self, name: str) -> None:
        """A step is over that began when the one before was."""
        self._done.append((name, time.time()))

    def steps(self) -> list[TimedStep]:
        """The steps that are over, in their order."""
        found, began_at = list[TimedStep](), self._began_at
        for name, ended_at in self._done:
            found.append(TimedStep(name=name, began_at=began_at, seconds=max(0.0, ended_at - began_at)))
            began_at = ended_at
        return found


class NewestSteps:
    """The steps of the newest creations, by sandbox."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, StepTimes] = OrderedDict()

    def keep(self, sandbox_id: str, times: StepTimes) -> None:
        """Remember them; those of the oldest creation are forgotten."""
        self._newest[sandbox_id] = times
        if len(self._newest) > _KEPT:
            self._newest.popitem(last=False)

    def find(self, sandbox_id: str) -> Sequence[TimedStep]:
        """The steps in their order; none if they are not known any more."""
        times = self._newest.get(sandbox_id)
        return () if times is None else times.steps()
