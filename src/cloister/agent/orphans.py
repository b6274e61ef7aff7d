"""The exit statuses of orphans, from the pipe on which pid 1 reports them: needed for processes that are not the agent's children.

Each record is ``struct {int32 pid, status}`` (wait status). The agent empties the pipe all the time: in a full one a needed record would
be lost. It keeps only statuses that are watched for, and searches for them as bytes, so a flood of orphans costs little.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import struct
import time

__all__ = ["Orphans"]

_RECORD = struct.Struct("=ii")
_PID = struct.Struct("=i")
_READ_BYTES = 64 << 10


class Orphans:
    """The reading end of the pipe. Without one (``fd`` None) no status is ever known."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._rest = b""
        self._watched: dict[int, int | None] = {}
        if fd is not None:
            os.set_blocking(fd, False)

    @classmethod
    def at(cls, fd: int) -> Orphans:
        """The pipe at an inherited descriptor, if there is one."""
        try:
            return cls(fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None)
        except OSError:
            return cls(None)

    def listen(self) -> None:
        """From now on, empty the pipe whenever it has data."""
        if self._fd is not None:
            asyncio.get_running_loop().add_reader(self._fd, self._take)

    def watch(self, pid: int) -> None:
        """Keep the status of this living process. Records so far were of an earlier process with the same pid."""
        while self._take():
            pass
        self._watched[pid] = None

    def forget(self, pid: int) -> None:
        """Drop the status of this process."""
        self._watched.pop(pid, None)

    def status(self, pid: int, wait_s: float) -> int | None:
        """The wait status of a watched process that has ended, or None if it is not known. Blocks for at most ``wait_s``."""
        deadline = time.monotonic() + wait_s
        while self._watched.get(pid) is None and self._fd is not None and (left_s := deadline - time.monotonic()) > 0:
            waiting = select.poll()
            waiting.register(self._fd, select.POLLIN)
            waiting.poll(left_s * 1000)
            self._take()
        return self._watched.get(pid)

    def _take(self) -> bool:
        """Read once. False: the pipe was empty."""
        if self._fd is None:
            return False
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:  # pid 1 has closed it; without pid 1 the sandbox ends
            self._stop()
            return False
        data = self._rest + data
        end = len(data) - len(data) % _RECORD.size
        self._rest = data[end:]
        for pid, status in self._watched.items():
            if status is None:
                self._find(pid, data[:end])
        return True

    def _find(self, pid: int, data: bytes) -> None:
        key = _PID.pack(pid)
        at = data.find(key)
        while at >= 0:
            if at % _RECORD.size == 0:
                self._watched[pid] = _RECORD.unpack_from(data, at)[1]
                return
            at = data.find(key, at + 1)

    def _stop(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                asyncio.get_running_loop().remove_reader(fd)
            except RuntimeError:  # there is no running loop, so nothing listens
                return
