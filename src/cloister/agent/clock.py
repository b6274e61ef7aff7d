"""The agent's event loop, whose clock stands still while the sandbox is paused.

A frozen process does not run, but the kernel's clocks do. Without this, every time limit that a client gave would have passed at the end
of a long pause: commands would be killed, and ended ones forgotten, before their client can come back. The server announces a pause
(``POST /pausing``); from then on the loop looks at its clock often, and takes a gap out of its time. Invariant: the loop's time never goes
back, and without an announcement it is the kernel's monotonic clock, less earlier pauses.
"""

from __future__ import annotations

import asyncio

__all__ = ["PausableLoop", "expect_pause"]

_TICK_S = 0.05
_GAP_S = 0.25
"""A shorter one is no pause, or one that does no harm."""
_WATCH_S = 10.0
"""A pause begins within this time after its announcement, or it has failed."""


class PausableLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._paused_s = 0.0
        self._seen_at: float | None = None
        """When the clock was looked at last; None while no pause is expected."""
        self._watch_until = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None
        super().__init__()

    def time(self) -> float:
        """The monotonic clock, less the time of pauses."""
        now = self._clock()
        if self._seen_at is not None:
            gap_s = now - self._seen_at
            if gap_s >= _GAP_S or gap_s < 0:  # the clock of another boot, after a restore from disk, may be behind
                self._paused_s += gap_s
            self._seen_at = now
        return now - self._paused_s

    def expect_pause(self) -> None:
        """A pause is about to begin."""
        self._seen_at = self._clock()
        self._watch_until = self.time() + _WATCH_S
        if self._tick_handle is None:
            self._tick()

    def _clock(self) -> float:
        return super().time()

    def _tick(self) -> None:
        """Look at the clock again soon, so that a gap is a pause and no quiet time."""
        if self.time() >= self._watch_until:
            self._seen_at = self._tick_handle = None
        else:
            self._tick_handle = self.call_later(_TICK_S, self._tick)


def expect_pause() -> None:
    """Tell the running loop, if it can stand still, that a pause is about to begin."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, PausableLoop):
        loop.expect_pause()
