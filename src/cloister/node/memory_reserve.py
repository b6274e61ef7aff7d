"""Keeps a reserve of the host's memory and disk: below it the node creates, resumes and builds nothing (I6).

The kernel kills programs of its own choice when memory runs out. So the node refuses what would take more, and ends nothing.
May be used from any thread.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloister.errors import NoCapacityError
from cloister.linux.meminfo import HostMemory, host_memory

__all__ = ["HostReserve", "MemoryReserve"]

_log = structlog.get_logger("cloister.node")
_MIB = 1 << 20


class MemoryReserve:
    """The reserve, and the number of requests that it refused."""

    def __init__(self, reserve_mib: int, look: Callable[[], HostMemory] = host_memory) -> None:
        """``look`` reads the host's memory without a wait."""
        self.bytes = reserve_mib * _MIB
        self._look = look
        self._refused = 0
        self._is_short = False
        self._lock = threading.Lock()

    def check(self, needed_bytes: int = 0) -> None:
        """Admit what takes ``needed_bytes`` at once, and more as it runs.

        Raises: NoCapacityError: the reserve would not be left.
        """
        available = self._look().available
        if available - needed_bytes >= self.bytes:
            self._tell(is_short=False, available=available)
            return
        with self._lock:
            self._refused += 1
        self._tell(is_short=True, available=available)
        needs = f", of which it needs {needed_bytes // _MIB}," if needed_bytes else ""
        raise NoCapacityError(
            f"the host has {available // _MIB} MiB of memory available{needs} and keeps {self.bytes // _MIB}",
            hint="kill sandboxes, or pause them with memory=false; or a smaller memory_reserve_mib (the server's setting)",
        )

    def counts(self) -> dict[str, int]:
        """Bytes ``available`` and in ``reserve`` now, and requests ``refused`` since the start."""
        return {"available": self._look().available, "reserve": self.bytes, "refused": self._refused}

    def _tell(self, *, is_short: bool, available: int) -> None:
        """Log each change once."""
        with self._lock:
            is_change, self._is_short = is_short != self._is_short, is_short
        if is_change:
            tell = _log.warning if is_short else _log.info
            tell("memory.short" if is_short else "memory.recovered", available_mib=available // _MIB, reserve_mib=self.bytes // _MIB)


@dataclass(frozen=True)
class HostReserve:
    """Both reserves, for work that writes to a directory."""

    disk_mib: int
    memory: MemoryReserve

    def check(self, directory: Path, *, memory_bytes: int = 0, disk_bytes: int = 0) -> None:
        """One more sandbox may be made, which takes so much at once.

        Raises: NoCapacityError: it would leave the host itself short of disk or memory.
        """
        free_mib = (shutil.disk_usage(directory).free - disk_bytes) // _MIB
        if free_mib < self.disk_mib:
            raise NoCapacityError(
                f"the server has too little disk space: {free_mib} MiB are left, fewer than the reserve of {self.disk_mib}",
                hint="kill sandboxes, or free space (setting disk_reserve_mib)",
            )
        self.memory.check(memory_bytes)
