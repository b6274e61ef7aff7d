"""A kernel that is a native driver (drivers/README.md): the order of its events, its bounds, how it is stopped, why it died.

What the program printed before a protocol message was sent is in the pipes already, so they are read, up to what a pipe holds,
before each batch of messages: output and results keep their order. Nothing is read while nobody asks (see kernel.py).

Stopping: an interrupt at once; after 0.5 s one to the children too (a program that waits for a child may ignore its own); again after
2 s; after 4 s the whole tree is killed and its state is lost.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.kernel import Cost, Display, Failure, Finished, KernelEvent, Output
from cloister.agent.interpreter.messages import Done, Late, Message, MessageReader, MessageTooLongError, ProtocolError, Ready
from cloister.agent.interpreter.process import UNKNOWN_STATUS, KernelProcess
from cloister.errors import UnavailableError

__all__ = ["KernelSettings", "NativeKernel"]

_PIPE_BYTES = 64 << 10
_SOCKET_BYTES = 256 << 10
_READY_S = 60.0
_BURST_READS = 10
_BURST_GAP_S = 0.005
_BURST_PAUSE_S = 0.002
_SMALL_BYTES = 16 << 10
_SIGNAL_TREE_S = (0.5, 2.0)
_KILL_S = 4.0
_EOF_GRACE_S = 1.0
_MAX_MESSAGE_BYTES = 96 << 20


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """What a kernel is to know beside how it is started."""

    language: str
    interrupt: str
    """``signal`` (SIGINT), ``message``, or ``bridge``: messages alone, the driver signals whom it must."""
    max_output_bytes: int
    mem_limit_mib: int


class NativeKernel:
    """A :class:`~cloister.agent.interpreter.kernel.Kernel` over a native driver."""

    def __init__(self, process: KernelProcess, settings: KernelSettings, cgroup: Cgroup, envs: Mapping[str, str]) -> None:
        """Own the process, which was started or adopted just now; :meth:`wait_ready` waits for its driver."""
        self.envs = envs
        self._settings = settings
        self._cgroup = cgroup
        self._oom_kills = cgroup.oom_kills()
        self._process = process
        self._reader = MessageReader(min(settings.max_output_bytes + (1 << 20), _MAX_MESSAGE_BYTES))
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        self._pipes = {"stdout": self._process.stdout_fd, "stderr": self._process.stderr_fd}
        self._poll = select.epoll()
        self._poll.register(self._process.channel.fileno(), select.EPOLLIN)
        self._poll.register(self._process.pidfd, select.EPOLLIN)
        self._outgoing = bytearray()
        self._timers: list[asyncio.TimerHandle] = []
        self._ready = False
        self._ended = False
        self._eof = False
        self._reason = ""
        self._run_id = 0
        self._running = False
        self._muted = False
        self._output_bytes = 0
        self._started_at = 0.0
        self._read_at = 0.0
        self._small_reads = 0
        self._cpu_at = 0

    @property
    def is_alive(self) -> bool:
        """Whether it can run code (again)."""
        return not self._ended and not self._reason and self._process.returncode() is None

    @property
    def death_note(self) -> str:
        """Why it is not alive."""
        return "" if self.is_alive else self._explain()

    @property
    def death_facts(self) -> Mapping[str, Any]:
        """Why it is not alive, as numbers and words of ours."""
        code = self._process.returncode()
        if self._reason:
            return {"cause": "stopped"}
        if self._ran_out_of_memory(code):
            return {"cause": "out_of_memory", "limit_mib": self._settings.mem_limit_mib}
        if code is None:
            return {"cause": "closed"}
        if code == UNKNOWN_STATUS:
            return {"cause": "unknown"}
        return {"cause": "signal", "signal": -code} if code < 0 else {"cause": "exit", "exit_code": code}

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
                        raise self._failed_start(self._explain())
        except TimeoutError:
            raise self._failed_start(f"it was not ready after {timeout_s:.0f} s") from None
        except ProtocolError as error:
            raise self._failed_start(f"its first message is {error}") from None
        for fd in self._pipes.values():
            self._poll.register(fd, select.EPOLLIN)

    def begin(self, code: str, envs: Mapping[str, str]) -> None:
        """Start a run."""
        self._run_id += 1
        self._running, self._muted, self._output_bytes, self._small_reads = True, False, 0, 0
        self._oom_kills = self._cgroup.oom_kills()
        self._process.reset_peak()
        self._cpu_at = self._process.cpu_ns() or 0
        self._started_at = time.monotonic()
        message = {"op": "execute", "id": self._run_id, "code": code, "language": self._settings.language, "envs": dict(envs)}
        self._send(message)

    async def next_events(self) -> list[KernelEvent]:
        """What has come, at least one event; Finished is the last of its list."""
        while True:
            await self._readable()
            if self._small_reads > _BURST_READS:  # a flood of short lines: let some gather
                await asyncio.sleep(_BURST_PAUSE_S)
            events = self._pump()
            now = time.monotonic()
            small = now - self._read_at < _BURST_GAP_S and sum(map(_size, events)) < _SMALL_BYTES
            self._small_reads = self._small_reads + 1 if small else 0
            self._read_at = now
            if events:
                return events

    def stop(self) -> None:
        """Interrupt the run, ever harder. Its further output is discarded."""
        self._muted = True
        if self._timers or not self._running:
            return
        self._interrupt()
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(delay_s, self._interrupt_tree) for delay_s in _SIGNAL_TREE_S]
        reason = f"The code did not stop when it was interrupted, so its kernel was killed after {_KILL_S:.0f} s"
        self._timers.append(loop.call_later(_KILL_S, self.kill, reason))

    def kill(self, reason: str) -> None:
        """End the whole tree now."""
        if self._ended:
            return
        self._reason = self._reason or reason
        self._process.kill_tree()

    async def close(self) -> None:
        """Kill and free everything. Nobody may be waiting for events."""
        self.kill("The kernel was closed")
        self._cancel_timers()
        self._ended = True
        asyncio.get_running_loop().remove_writer(self._process.channel.fileno())
        self._poll.close()
        self._process.close()

    # -- reading --------------------------------------------------------------------------------------------------------

    async def _readable(self) -> None:
        if self._poll.poll(0):
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
        speaks = self._process.channel.fileno() in ready
        dies = self._process.pidfd in ready
        events: list[KernelEvent] = []
        if not speaks and not dies:
            for stream in list(self._pipes):
                if self._pipes[stream] in ready:
                    events += self._read_pipe(stream)
            return self._bounded(events)
        try:
            messages, open_ = self._receive()
        except MessageTooLongError as error:
            return self._bounded([], over=str(error))
        except ProtocolError as error:
            self.kill(f"The kernel was killed because it broke its protocol ({error})")
            messages, open_ = [], True
        if messages or not open_:
            for stream in list(self._pipes):
                events += self._drain_pipe(stream)
        done = self._translate(messages, events)
        events = self._bounded(events)
        if done is not None:
            return [*events, *self._finish(done.count)]
        if not open_ and self._running:
            return [*events, self._death(), *self._finish(None)]
        return events

    def _death(self) -> KernelEvent:
        """The run's error; after an earlier error of ours, which stays the run's, a line on stderr."""
        text = f"{self._explain()}. Its state is lost; the next run starts a new kernel."
        return Output("stderr", text + "\n") if self._muted else Failure("KernelDied", text, text)

    def _translate(self, messages: list[Message], events: list[KernelEvent]) -> Done | None:
        for message in messages:
            if isinstance(message, Done):
                if message.run_id == self._run_id:
                    return message
            elif isinstance(message, Late):
                events.append(Output("stderr", message.failure.traceback))
            elif isinstance(message, Output) and events and isinstance(last := events[-1], Output) and last.stream == message.stream:
                events[-1] = Output(last.stream, last.text + message.text)
            elif not isinstance(message, Ready):
                events.append(message)
        return None

    def _receive(self) -> tuple[list[Message], bool]:
        """The messages that are there, and whether the driver may send more.

        Raises: ProtocolError.
        """
        try:
            data = self._process.channel.recv(_SOCKET_BYTES)
        except BlockingIOError:
            return [], self._process.returncode() is None
        except OSError:
            data = b""
        if data:
            return self._reader.feed(data, self._run_id), True
        if not self._eof:  # a process that ends closes its socket before it can be reaped: give it time
            self._eof = True
            self._poll.unregister(self._process.channel.fileno())
            asyncio.get_running_loop().call_later(_EOF_GRACE_S, self.kill, "The kernel was killed because it closed its protocol socket")
        return [], self._process.returncode() is None

    def _read_pipe(self, stream: str) -> list[KernelEvent]:
        try:
            data = os.read(self._pipes[stream], _PIPE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self._drop_pipe(stream)
        text = self._decoders[stream].decode(data, final=not data)
        return [Output(stream, text)] if text else []

    def _drain_pipe(self, stream: str) -> list[KernelEvent]:
        """All that a full pipe can hold, as one event: more was written after the messages that we look at."""
        parts = []
        left = _PIPE_BYTES
        while left > 0 and stream in self._pipes:
            try:
                data = os.read(self._pipes[stream], left)
            except BlockingIOError:
                break
            if not data:
                self._drop_pipe(stream)
                break
            parts.append(data)
            left -= len(data)
        text = self._decoders[stream].decode(b"".join(parts))
        return [Output(stream, text)] if text else []

    def _drop_pipe(self, stream: str) -> None:
        """Nobody can write to it any more."""
        with contextlib.suppress(FileNotFoundError):  # before the kernel is ready, pipes are not waited for
            self._poll.unregister(self._pipes.pop(stream))

    # -- ending ---------------------------------------------------------------------------------------------------------

    def _bounded(self, events: list[KernelEvent], *, over: str = "") -> list[KernelEvent]:
        """Count the output; past the bound, or when ``over`` names one, the run is stopped and what it says further is dropped."""
        if self._muted:
            return []
        kept: list[KernelEvent] = []
        for event in events:
            self._output_bytes += _size(event)
            if self._output_bytes > self._settings.max_output_bytes:
                over = f"its output passed the bound of {self._settings.max_output_bytes >> 20} MiB"
                break
            kept.append(event)
        if over:
            text = f"The run was interrupted because {over}. What it wrote after that was dropped."
            kept.append(Failure("OutputLimitExceeded", text, text))
            self.stop()
        return kept

    def _finish(self, count: int | None) -> list[KernelEvent]:
        self._cancel_timers()
        events: list[KernelEvent] = []
        for stream, decoder in self._decoders.items():
            rest = decoder.decode(b"", final=True)
            decoder.reset()
            if rest and not self._muted:
                events.append(Output(stream, rest))
        self._running = False
        cpu_ns = self._process.cpu_ns() if count is not None else None
        cost = Cost(
            wall_ms=round((time.monotonic() - self._started_at) * 1000),
            cpu_ms=None if cpu_ns is None else max(0, cpu_ns - self._cpu_at) // 1_000_000,
            peak_mem_bytes=self._process.peak_bytes() if count is not None else None,
        )
        return [*events, Finished(count, cost)]

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _explain(self) -> str:
        """Why the process ended, for a person, without a full stop."""
        code = self._process.returncode()
        if self._reason:
            return self._reason
        if self._ran_out_of_memory(code):
            return f"The kernel ran out of memory and was killed (the sandbox's limit is {self._settings.mem_limit_mib} MiB)"
        if code is None:
            return "The kernel closed its protocol socket"
        if code == UNKNOWN_STATUS:
            return "The kernel ended"
        if code < 0:
            return f"The kernel was ended by signal {-code} ({_signal_name(-code)})"
        return f"The kernel ended with exit code {code}"

    def _ran_out_of_memory(self, code: int | None) -> bool:
        kills = self._cgroup.oom_kills()
        return code == -signal.SIGKILL and kills is not None and self._oom_kills is not None and kills > self._oom_kills

    def _failed_start(self, reason: str) -> UnavailableError:
        said = []
        for stream in list(self._pipes):
            said += [event.text for event in self._drain_pipe(stream) if isinstance(event, Output)]
        self.kill(reason)
        tail = "".join(said).strip()[-4000:]
        return UnavailableError(f"The {self._settings.language} kernel did not start: {reason}" + (f"\n{tail}" if tail else ""))

    # -- writing --------------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._settings.interrupt != "signal":
            self._send({"op": "interrupt", "id": self._run_id})
        else:
            self._process.signal(signal.SIGINT)

    def _interrupt_tree(self) -> None:
        if self._settings.interrupt != "signal":
            self._send({"op": "interrupt", "id": self._run_id})
        if self._settings.interrupt != "bridge":
            self._process.signal_tree(signal.SIGINT)

    def _send(self, message: Mapping[str, object]) -> None:
        self._outgoing += json.dumps(message).encode("ascii") + b"\n"
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        fd = self._process.channel.fileno()
        try:
            sent = self._process.channel.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._outgoing.clear()  # it is gone, which reading will show
            loop.remove_writer(fd)
            return
        del self._outgoing[:sent]
        if self._outgoing:
            loop.add_writer(fd, self._flush)
        else:
            loop.remove_writer(fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _size(event: KernelEvent) -> int:
    """About how many bytes of output an event is."""
    if isinstance(event, Output):
        return len(event.text)
    if isinstance(event, Display):
        return sum(len(value) if isinstance(value, str) else 64 for value in event.data.values())
    return 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
