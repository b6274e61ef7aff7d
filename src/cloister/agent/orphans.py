"""How the orphans ended that pid 1 reaped, from the pipe on which it says so: needed of processes that are no children of ours.

Each record is ``struct {int32 pid, status}`` (wait status). The pipe is emptied as long as the agent serves, so that it never fills up and
drops what somebody needs; only statuses that are watched for are kept, and the search for them is one of bytes, so a flood costs little.
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
    """The reading end of the pipe; without one (``fd`` None) nothing is ever known."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._rest = b""
        self._watched: dict[int, int | None] = {}
        if fd is not None:
            os.set_blocking(fd, False)

    @classmethod
    def at(cls, fd: int) -> Orphans:
        """Those of a descriptor that was inherited, when it is there."""
        try:
            return cls(fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None)
        except OSError:
            return cls(None)

    def listen(self) -> None:
        """Empty the pipe whenever something comes, from here on."""
        if self._fd is not None:
            asyncio.get_running_loop().add_reader(self._fd, self._take)

    def watch(self, pid: int) -> None:
        """Keep the status of this process, which lives; what was said before was of another that had its number."""
        while self._take():
            pass
        self._watched[pid] = None

    def forget(self, pid: int) -> None:
        """Nobody needs it any more."""
        self._watched.pop(pid, None)

    def status(self, pid: int, wait_s: float) -> int | None:
        """The wait status of a process that is watched and has ended, None when it is not known. Blocks for at most ``wait_s``."""
        deadline = time.monotonic() + wait_s
        while self._watched.get(pid) is None and self._fd is not None and (left_s := deadline - time.monotonic()) > 0:
            waiting = select.poll()
            waiting.register(self._fd, select.POLLIN)
            waiting.poll(left_s * 1000)
            self._take()
        return self._watched.get(pid)

    def _take(self) -> bool:
        """Read once. False: there was nothing."""
        if self._fd is None:
            return False
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:  # pid 1 has closed it; without pid 1 there is no sandbox
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
            except RuntimeError:  # not called from the loop, so nothing listens
                return
