"""All processes that clients started, by pid and tag: running ones, and for a while ended ones."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from cloister.agent.events import EventLog
from cloister.agent.process.launch import Launch
from cloister.agent.process.output import UNREAD_BYTES
from cloister.agent.process.process import OutOfMemory, Process
from cloister.agent.process.script import MAX_ARGUMENT_BYTES, shorten
from cloister.agent.process.shown import shown_command
from cloister.errors import InvalidRequestError, NotFoundError
from cloister.protocol.process import ProcessConfig, ProcessInfo, ProcessSelector

__all__ = ["Entry", "ProcessTable"]

_KEPT_S = 300.0
_KEPT_MOST = 256
_KEPT_BYTES = 16 << 20
"""How long, and for how many ended processes with how much output, the exit and the last output are kept."""
_ALL_UNREAD_BYTES = 32 << 20
"""Bound of the output that running processes without readers share."""


@dataclass(frozen=True)
class Entry:
    """A process and the client's facts about it."""

    process: Process
    config: ProcessConfig
    tag: str | None
    started_at: float = field(default_factory=time.monotonic)


class ProcessTable:
    """The processes of one sandbox. ``max_spool_bytes`` bounds each process's output that waits for slow readers."""

    def __init__(self, events: EventLog, max_spool_bytes: int, memory: OutOfMemory) -> None:
        self._events = events
        self._max_spool_bytes = max_spool_bytes
        self._memory = memory
        self._running: dict[int, Entry] = {}
        self._ended: dict[int, Entry] = {}

    def start(self, what: Launch, config: ProcessConfig, tag: str | None) -> Entry:
        """Start a process.

        Raises: InvalidRequestError, LimitError.
        """
        process = Process(what, self._max_spool_bytes, self._memory, lambda: self._end(entry))
        entry = Entry(process, _short(config), tag)
        self._ended.pop(process.pid, None)  # the kernel reuses pids
        self._running[process.pid] = entry
        process.log.most_unread = lambda: min(UNREAD_BYTES, _ALL_UNREAD_BYTES // max(1, len(self._running)))
        self._events.record("process.started", pid=process.pid, command=shown_command(config), user=what.account.name, tag=tag)
        return entry

    def start_unlisted(self, what: Launch) -> Process:
        """A process that no client sees. Raises: InvalidRequestError, LimitError."""
        return Process(what, self._max_spool_bytes, self._memory, lambda: None)

    def find(self, selector: ProcessSelector | None) -> Entry:
        """The process that the selector means, running or recently ended. Of several with one tag: a running one first, then the newest.

        Raises: NotFoundError, InvalidRequestError.
        """
        if selector is None or (selector.pid is None and selector.tag is None):
            raise InvalidRequestError("the request names no process: 'process' needs a 'pid' or a 'tag'")
        for entries in (self._running, self._ended):
            if selector.pid is not None:
                if selector.pid in entries:
                    return entries[selector.pid]
                continue
            for entry in reversed(entries.values()):
                if entry.tag == selector.tag:
                    return entry
        name = f"pid {selector.pid}" if selector.pid is not None else f"tag '{selector.tag}'"
        raise NotFoundError(f"process with {name} does not exist")

    def find_running(self, selector: ProcessSelector | None) -> Entry:
        """The same among running processes.

        Raises: NotFoundError, InvalidRequestError.
        """
        entry = self.find(selector)
        if entry.process.result is not None:
            raise NotFoundError(f"process with pid {entry.process.pid} has ended: {entry.process.result.status}")
        return entry

    def list(self) -> tuple[ProcessInfo, ...]:
        """The running processes, the oldest first."""
        return tuple(ProcessInfo(config=one.config, pid=one.process.pid, tag=one.tag) for one in self._running.values())

    def release_readers(self, why: str) -> None:
        """End the streams that follow processes, with an error that says ``why``; their clients connect again later."""
        for entry in (*self._running.values(), *self._ended.values()):
            entry.process.log.release_readers(why)

    def _end(self, entry: Entry) -> None:
        pid, result = entry.process.pid, entry.process.result
        assert result is not None, "it is called at the end"
        if self._running.get(pid) is entry:
            del self._running[pid]
            kept = self._ended[pid] = replace(entry, config=ProcessConfig())
            asyncio.get_running_loop().call_later(_KEPT_S, self._forget, kept)
            while len(self._ended) > _KEPT_MOST or sum(one.process.log.kept_bytes for one in self._ended.values()) > _KEPT_BYTES:
                self._forget(next(iter(self._ended.values())))
        seconds = round(time.monotonic() - entry.started_at, 3)
        self._events.record(
            "process.ended", pid=pid, command=shown_command(entry.config), exit_code=result.exit_code, status=result.status, wall_s=seconds
        )

    def _forget(self, entry: Entry) -> None:
        if self._ended.get(entry.process.pid) is entry:
            del self._ended[entry.process.pid]


def _short(config: ProcessConfig) -> ProcessConfig:
    """``config`` to keep and to list, cut to the size that an argument of a program can have."""
    args = tuple(arg if len(arg) <= MAX_ARGUMENT_BYTES else shorten(arg) for arg in config.args)
    return config if args == config.args else replace(config, args=args)
