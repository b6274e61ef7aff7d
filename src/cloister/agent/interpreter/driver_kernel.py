"""A kernel that is a driver process (drivers/README.md), also the driver of a Jupyter kernel: the order of its events, and its bounds.

Output that the program printed before it sent a message is in the pipes when the message arrives. The kernel therefore reads the pipes,
up to a pipe's size, before each batch of messages: output and results keep their order. It reads only while a client waits (kernel.py).
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.death import DeathCause
from cloister.agent.interpreter.driver_channel import DriverChannel
from cloister.agent.interpreter.interruption import Interruption
from cloister.agent.interpreter.kernel import Cost, Display, Failure, Finished, KernelEvent, Output
from cloister.agent.interpreter.messages import Awaited, Done, Late, Message, MessageTooLongError, ProtocolError, Ready
from cloister.agent.interpreter.pipe_reader import PipeReader
from cloister.agent.interpreter.process import KernelProcess
from cloister.errors import UnavailableError

__all__ = ["DriverKernel", "KernelSettings"]

_READY_S = 60.0
_BURST_READS = 10
_BURST_GAP_S = 0.005
_BURST_PAUSE_S = 0.002
_SMALL_BYTES = 16 << 10
_EOF_GRACE_S = 1.0
_MESSAGE_BYTES = 256
"""Every message counts so much output beside its content, unless it is text: a flood of empty messages ends, too."""


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """The facts that a kernel needs, beside its process."""

    language: str
    interrupt: str
    """That of the language (languages.py); so is ``renews``."""
    renews: bool = False
    max_output_bytes: int
    mem_limit_mib: int


class DriverKernel:
    """A :class:`~cloister.agent.interpreter.kernel.Kernel` over a driver process."""

    def __init__(self, process: KernelProcess, settings: KernelSettings, cgroup: Cgroup, envs: Mapping[str, str]) -> None:
        """Own the process, which was started or adopted just now; :meth:`wait_ready` waits for its driver."""
        self.envs = envs
        self._settings = settings
        self._process = process
        self._death = DeathCause(cgroup, settings.mem_limit_mib)
        self._channel = DriverChannel(process.channel, settings.max_output_bytes)
        self._interruption = Interruption(process, self._channel, settings.interrupt)
        self._poll = select.epoll()
        self._poll.register(self._channel.fileno(), select.EPOLLIN)
        self._poll.register(process.pidfd, select.EPOLLIN)
        self._pipes = PipeReader(process.stdout_fd, process.stderr_fd, self._poll)
        self._ready = False
        self._ended = False
        self._eof = False
        self._run_id = 0
        self._uncounted = 0
        """Runs that no client asked for."""
        self._renews_next = False
        self._running = False
        self._muted = False
        """Whether further output of the run is dropped."""
        self._output_bytes = 0
        self._started_at = 0.0
        self._read_at = 0.0
        self._small_reads = 0
        self._cpu_at = 0

    @property
    def is_alive(self) -> bool:
        """Whether it can run code (again)."""
        return not self._ended and not self._death.reason and self._process.returncode() is None

    @property
    def death_note(self) -> str:
        """Why it is not alive."""
        return "" if self.is_alive else self._death.explain(self._process.returncode())

    @property
    def death_facts(self) -> Mapping[str, Any]:
        """Why it is not alive, as numbers and words of ours."""
        return self._death.facts(self._process.returncode())

    async def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Until the driver says ready; at once when it has.

        Raises: UnavailableError, with the last of what it wrote to stderr.
        """
        if self._ready:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not self._ready:
                    await self._readable()
                    messages, open_ = self._receive()
                    self._ready = self._ready or any(isinstance(message, Ready) for message in messages)
                    if not open_ and not self._ready:
                        raise self._failed_start(self._death.explain(self._process.returncode()))
        except TimeoutError:
            raise self._failed_start(f"it was not ready after {timeout_s:.0f} s") from None
        except ProtocolError as error:
            raise self._failed_start(f"its first message is {error}") from None
        self._pipes.watch()

    def begin(self, code: str, envs: Mapping[str, str]) -> None:
        """Start a run."""
        if self._renews_next:
            self._renews_next = False
            self._channel.send({"op": "renew"})
        self._run_id += 1
        self._running, self._muted, self._output_bytes, self._small_reads = True, False, 0, 0
        self._death.begin_run()
        self._process.reset_peak()
        self._cpu_at = self._process.cpu_ns() or 0
        self._started_at = time.monotonic()
        message = {"op": "execute", "id": self._run_id, "code": code, "language": self._settings.language, "envs": dict(envs)}
        self._channel.send(message)

    async def next_events(self) -> list[KernelEvent]:
        """The events that have come, at least one; Finished is the last of its list."""
        while True:
            await self._readable()
            if self._small_reads > _BURST_READS:  # a flood of short lines: let some gather
                await asyncio.sleep(_BURST_PAUSE_S)
            waited_s = time.monotonic() - self._read_at
            events = self._pump()
            small = waited_s < _BURST_GAP_S and sum(map(_size, events)) < _SMALL_BYTES and not self._channel.is_in_long_message
            self._small_reads = self._small_reads + 1 if small else 0
            self._read_at = time.monotonic()
            if events:
                return events

    async def warm_up(self, code: str) -> None:
        """Run a cell whose output no client gets, and which does not count. It must end by itself."""
        self.begin(code, {})
        while not isinstance((await self.next_events())[-1], Finished):
            pass
        self._uncounted += 1

    def stop(self) -> None:
        """Interrupt the run (interruption.py). Its further output is dropped."""
        self._muted = True
        if self._running:
            self._interruption.begin(self._run_id, self.kill)

    def renew(self) -> None:
        """Have the driver renew random generators. It reads no message in the middle of a run, so after that one."""
        if not self._settings.renews:
            return
        if self._running:
            self._renews_next = True
        else:
            self._channel.send({"op": "renew"})

    def kill(self, reason: str) -> None:
        """End the whole tree now."""
        if self._ended:
            return
        self._death.reason = self._death.reason or reason
        self._process.kill_tree()

    async def close(self) -> None:
        """Kill and free everything. No task may be waiting for events."""
        self.kill("The kernel was closed")
        self._interruption.end()
        self._ended = True
        self._channel.stop_sending()
        self._poll.close()
        self._process.close()

    # -- reading --------------------------------------------------------------------------------------------------------

    async def _readable(self) -> None:
        if self._poll.poll(0):
            await asyncio.sleep(0)  # messages may come faster than they are read; the agent's other tasks have their turn, too
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        loop.add_reader(self._poll.fileno(), _wake, woken)
        try:
            await woken
        finally:
            loop.remove_reader(self._poll.fileno())

    def _pump(self) -> list[KernelEvent]:
        """Read what is there, once."""
        ready = {fd for fd, _ in self._poll.poll(0)}
        if self._channel.fileno() not in ready and self._process.pidfd not in ready:
            return self._bounded(self._pipes.read(ready))
        over = ""
        try:
            messages, open_ = self._receive()
        except MessageTooLongError as error:
            messages, open_, over = [], True, str(error)
        except ProtocolError as error:
            self.kill(f"The kernel was killed because it broke its protocol ({error})")
            messages, open_ = [], True
        # The pipes are read whatever arrived on the socket: something may arrive there all the time.
        events: list[KernelEvent] = [*self._pipes.drain()]
        done = self._translate(messages, events)
        events = self._bounded(events, over=over)
        if done is not None:
            return [*events, *self._finish(done.count - self._uncounted)]
        if not open_ and self._running:
            return [*events, self._death_event(), *self._finish(None)]
        return events

    def _receive(self) -> tuple[list[Message], bool]:
        """The messages that are there, and whether the driver may send more.

        Raises: ProtocolError.
        """
        messages = self._channel.receive(self._run_id)
        if messages is not None:
            return messages, True
        if self._channel.is_at_end and not self._eof:  # a process that ends closes its socket before it can be reaped: give it time
            self._eof = True
            self._poll.unregister(self._channel.fileno())
            asyncio.get_running_loop().call_later(_EOF_GRACE_S, self.kill, "The kernel was killed because it closed its protocol socket")
        return [], self._process.returncode() is None

    def _translate(self, messages: list[Message], events: list[KernelEvent]) -> Done | None:
        """Append the messages' events; the end of the run, if it is among them."""
        for message in messages:
            if isinstance(message, Done) and message.run_id == self._run_id:
                return message
            if isinstance(message, Output) and message.text:
                _add_text(events, message)
                continue
            self._output_bytes += _MESSAGE_BYTES
            if isinstance(message, Awaited):
                self._answer(message.number)
            elif isinstance(message, Late):
                events.append(Output("stderr", message.failure.traceback))
            elif isinstance(message, (Display, Failure)):
                events.append(message)
        return None

    def _answer(self, number: int) -> None:
        if not self._channel.answer(number) and not self._death.reason:  # killing takes milliseconds, and this may be one of thousands
            self.kill("The kernel was killed because it asks for answers that it does not read")

    # -- ending ---------------------------------------------------------------------------------------------------------

    def _bounded(self, events: Sequence[KernelEvent], *, over: str = "") -> list[KernelEvent]:
        """Count the output. Past the bound, or when ``over`` names one, the run is stopped and its further output is dropped."""
        if self._muted:
            return []
        kept: list[KernelEvent] = []
        for event in events:
            self._output_bytes += _size(event)
            if self._output_bytes > self._settings.max_output_bytes:
                break
            kept.append(event)
        if self._output_bytes > self._settings.max_output_bytes:
            over = f"its output passed the bound of {self._settings.max_output_bytes >> 20} MiB"
        if over:
            text = f"The run was interrupted because {over}. What it wrote after that was dropped."
            kept.append(Failure("OutputLimitExceeded", text, text))
            self.stop()
        return kept

    def _death_event(self) -> KernelEvent:
        """The run's error. After an error of the agent's own, which stays the run's, a line on stderr."""
        text = f"{self._death.explain(self._process.returncode())}. Its state is lost; the next run starts a new kernel."
        return Output("stderr", text + "\n") if self._muted else Failure("KernelDied", text, text)

    def _finish(self, count: int | None) -> list[KernelEvent]:
        self._interruption.end()
        self._running = False
        rests = self._pipes.finish_text()
        cpu_ns = self._process.cpu_ns() if count is not None else None
        cost = Cost(
            wall_ms=round((time.monotonic() - self._started_at) * 1000),
            cpu_ms=None if cpu_ns is None else max(0, cpu_ns - self._cpu_at) // 1_000_000,
            peak_mem_bytes=self._process.peak_bytes() if count is not None else None,
        )
        return [*([] if self._muted else rests), Finished(count, cost)]

    def _failed_start(self, reason: str) -> UnavailableError:
        said = "".join(output.text for output in self._pipes.drain())
        self.kill(reason)
        tail = said.strip()[-4000:]
        return UnavailableError(f"The {self._settings.language} kernel did not start: {reason}" + (f"\n{tail}" if tail else ""))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _add_text(events: list[KernelEvent], output: Output) -> None:
    if events and isinstance(last := events[-1], Output) and last.stream == output.stream:
        events[-1] = Output(last.stream, last.text + output.text)
    else:
        events.append(output)


def _size(event: KernelEvent) -> int:
    """About how many bytes of output an event is."""
    if isinstance(event, Output):
        return len(event.text)
    if isinstance(event, Display):
        return event.size
    if isinstance(event, Failure):
        return len(event.name) + len(event.value) + len(event.traceback)
    return 0
