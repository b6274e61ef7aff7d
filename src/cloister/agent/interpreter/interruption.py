"""Stops a run that does not end by itself, by stronger means as time passes.

At once an interrupt to the kernel; after 0.5 s and 2 s one to its children, too (a program that waits for a child may ignore its own);
after 4 s SIGKILL to the whole tree, and the kernel's state is lost.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from cloister.agent.interpreter.driver_channel import DriverChannel
from cloister.agent.interpreter.process import KernelProcess

__all__ = ["Interruption"]

_CHILDREN_S = (0.5, 2.0)
_KILL_S = 4.0


class Interruption:
    """The interruption of one kernel's runs. ``interrupt`` is that of :class:`KernelSettings`."""

    def __init__(self, process: KernelProcess, channel: DriverChannel, interrupt: str) -> None:
        self._process = process
        self._channel = channel
        self._by_message = interrupt != "signal"
        self._signals_children = interrupt != "bridge"
        self._timers: list[asyncio.TimerHandle] = []

    def begin(self, run_id: int, kill: Callable[[str], None]) -> None:
        """Interrupt a run; once is enough. ``kill`` is called with the reason when nothing else helped."""
        if self._timers:
            return
        if self._by_message:
            self._channel.send({"op": "interrupt", "id": run_id})
        else:
            self._process.signal(signal.SIGINT)
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(delay_s, self._interrupt_children, run_id) for delay_s in _CHILDREN_S]
        reason = f"The code did not stop when it was interrupted, so its kernel was killed after {_KILL_S:.0f} s"
        self._timers.append(loop.call_later(_KILL_S, kill, reason))

    def end(self) -> None:
        """The run has ended."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _interrupt_children(self, run_id: int) -> None:
        if self._by_message:
            self._channel.send({"op": "interrupt", "id": run_id})
        if self._signals_children:
            self._process.signal_tree(signal.SIGINT)
