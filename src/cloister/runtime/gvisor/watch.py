"""Ends sandboxes of which one process has ended and the other has not.

A sandbox without its gofer computes on, and every call on a file fails; nothing of it would tell. Its node watches the other process.
Runs in: supervisor and builds, on a thread of its own. Needs: nothing.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Mapping

from cloister.errors import CloisterError

__all__ = ["Watch"]


class Watch:
    """Processes by pidfd, and what to do at the end of each. Thread-safe; its thread lives as long as the process."""

    def __init__(self, tell: Callable[[str, Mapping[str, object]], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._ends: dict[int, Callable[[], None]] = {}
        self._poller = select.epoll()
        self._thread: threading.Thread | None = None

    def add(self, pidfd: int, on_end: Callable[[], None]) -> Callable[[], None]:
        """Call ``on_end`` on this thread once the process has ended; gives what ends the watch. ``pidfd`` may be closed meanwhile."""
        own = os.dup(pidfd)
        with self._lock:
            self._ends[own] = on_end
            self._poller.register(own, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gofers", daemon=True)
                self._thread.start()

        def drop() -> None:
            self._drop(own)

        return drop

    def close(self) -> None:
        """End every watch: the processes are about to be ended on purpose."""
        with self._lock:
            fds = list(self._ends)
        for fd in fds:
            self._drop(fd)

    def _drop(self, fd: int) -> Callable[[], None] | None:
        with self._lock:
            found = self._ends.pop(fd, None)
            if found is not None:
                self._poller.unregister(fd)
                os.close(fd)
        return found

    def _run(self) -> None:
        while True:
            for fd, _ in self._poller.poll():
                end = self._drop(fd)
                try:
                    if end is not None:
                        end()
                except (CloisterError, OSError) as error:  # a thread's border: the node's own watch of the sandbox goes on
                    self._tell("sandbox.not_ended", {"error": str(error)})
