"""Runs the template's start command once, and its ready command until it succeeds.

The outcome goes to the ready pipe (protocol/ready.py), for which the creation of the sandbox waits. A bounded part of the start command's
output goes into the sandbox's log. Only the first agent of a sandbox does this (``main.py``).
"""

from __future__ import annotations

import asyncio
import signal
import time

from cloister.agent.events import EventLog
from cloister.agent.process.output import STDERR
from cloister.agent.process.process import Process
from cloister.agent.process.service import ProcessService
from cloister.agent.state import AgentState
from cloister.errors import CloisterError
from cloister.protocol.init_document import StartPlan
from cloister.protocol.process import EndEvent
from cloister.protocol.ready import encode_outcome
from cloister.protocol.startup import Attempt, Tail, never_ready, ready_pauses, start_died

__all__ = ["Startup"]

_BURST_LINES, _LINES_PER_S = 200.0, 1.0
"""Lines of output that the log takes: a burst, and a lasting rate per second."""
_MAX_LINE_BYTES = 1000


class Startup:
    """The start of one sandbox. Made before the sandbox is known; call :meth:`run` at most once."""

    def __init__(self, state: AgentState, processes: ProcessService, events: EventLog) -> None:
        self._state = state
        self._processes = processes
        self._events = events
        self._following: asyncio.Task[EndEvent] | None = None
        self._said = Tail()
        self._last: Attempt | None = None
        self._attempts = 0

    async def run(self) -> bytes:
        """Run the commands until the sandbox is ready or has failed. Gives the outcome for the ready pipe."""
        plan = self._state.document.start or StartPlan()
        began = time.monotonic()
        try:
            async with asyncio.timeout(plan.timeout_s):
                reason = await self._run(plan)
        except TimeoutError:
            ended = self._following is not None and self._following.done()
            reason = never_ready(plan.ready, plan.timeout_s, self._attempts, self._last, start_ended=ended)
        except CloisterError as error:
            reason = f"the template's commands cannot be run: {error}"
        seconds = round(time.monotonic() - began, 3)
        if reason:
            self._events.record("start.failed", level="error", wall_s=seconds, attempts=self._attempts)
            return encode_outcome(reason)
        self._events.record("start.ready", wall_s=seconds, attempts=self._attempts)
        return encode_outcome("")

    async def _run(self, plan: StartPlan) -> str:
        if plan.command:
            process = self._processes.start_shell(plan.command, plan.envs, listed=True)
            self._following = asyncio.create_task(self._follow(process))
        if not plan.ready:
            return ""
        asking = asyncio.create_task(self._ask_until_ready(plan))
        try:
            while not asking.done():
                waited = {task for task in (asking, self._following) if task is not None and not task.done()}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done() and self._following is not None and self._following.done():
                    end = self._following.result()
                    if end.exit_code:
                        return start_died(plan.command, end.error or end.status, self._said.text())
            return asking.result()
        finally:
            asking.cancel()

    async def _ask_until_ready(self, plan: StartPlan) -> str:
        for pause_s in ready_pauses():
            said = Tail()
            process = self._processes.start_shell(plan.ready, plan.envs, listed=False)
            try:
                end = await _read(process, said)
            finally:
                if process.result is None:  # the time is over
                    process.signal(signal.SIGKILL)
            self._attempts += 1
            if end.exit_code == 0:
                break
            self._last = Attempt(end.error or end.status, said.text())
            await asyncio.sleep(pause_s)
        return ""

    async def _follow(self, process: Process) -> EndEvent:
        """Read the start command's output for as long as it lives."""
        lines = _Lines(self._events)
        return await _read(process, self._said, lines)


async def _read(process: Process, said: Tail, lines: _Lines | None = None) -> EndEvent:
    """Take a process's output until it ends."""
    reader = process.log.attach()
    try:
        while chunks := await reader.next():
            for kind, data in chunks:
                said.add(data)
                if lines is not None:
                    lines.add(kind, data)
    finally:
        reader.close()
    if lines is not None:
        lines.end()
    assert process.result is not None, "its output has ended"
    return process.result


class _Lines:
    """Records output as lines of the sandbox's log, within the rate; counts the lines beyond it."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._rest: dict[int, bytes] = {}
        self._allowance = _BURST_LINES
        self._at = time.monotonic()
        self._dropped = 0

    def add(self, kind: int, data: bytes) -> None:
        """Add output of standard output or error."""
        self._refill()
        if self._allowance < 1.0:  # in a flood, only count lines
            whole, newline, rest = data.rpartition(b"\n")
            self._dropped += whole.count(b"\n") + len(newline)
            self._rest[kind] = rest[-_MAX_LINE_BYTES:] if newline else (self._rest.get(kind, b"") + data)[-_MAX_LINE_BYTES:]
            return
        *lines, rest = (self._rest.get(kind, b"") + data).split(b"\n")
        for line in lines:
            self._record(kind, line)
        self._rest[kind] = rest[:_MAX_LINE_BYTES]

    def end(self) -> None:
        """Record the last line, which has no newline."""
        for kind, rest in self._rest.items():
            if rest:
                self._record(kind, rest)
        self._tell_dropped()

    def _record(self, kind: int, line: bytes) -> None:
        if not line.strip():
            return
        if self._allowance < 1.0:
            self._dropped += 1
            return
        self._tell_dropped()
        self._allowance -= 1.0
        stream = "stderr" if kind == STDERR else "stdout"
        self._events.record("start.output", stream=stream, line=line[:_MAX_LINE_BYTES].decode("utf-8", "replace").rstrip())

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._events.record("start.output_dropped", lines=self._dropped)
            self._dropped = 0

    def _refill(self) -> None:
        now = time.monotonic()
        self._allowance = min(_BURST_LINES, self._allowance + (now - self._at) * _LINES_PER_S)
        self._at = now
