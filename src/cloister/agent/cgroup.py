"""Measurements of the sandbox, from its cgroup files (mounted read-only) and its root file system. Reads only.

On cgroup v1 the directory holds ``memory/``, ``cpuacct/`` and ``pids/``; on v2 it holds the files themselves.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["Cgroup"]


class Cgroup:
    """One sandbox's cgroup. A number whose file is missing is None, never 0."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_v1: bool | None = None

    @property
    def _v1(self) -> bool:
        """Cached only once the files exist: a zygote has none, and its children inherit what it cached."""
        if self._is_v1 is None and any(self._directory.glob("*")):
            self._is_v1 = (self._directory / "memory").is_dir()
        return bool(self._is_v1)

    def oom_kills(self) -> int | None:
        """The number of processes that were killed so far because memory ran out."""
        return self._key("memory/memory.oom_control" if self._v1 else "memory.events", "oom_kill")

    def memory_used_bytes(self) -> int | None:
        """Memory in use, page cache included."""
        return self._number("memory/memory.usage_in_bytes" if self._v1 else "memory.current")

    def memory_cache_bytes(self) -> int | None:
        """The page cache's part of the memory in use."""
        return self._key("memory/memory.stat", "total_cache") if self._v1 else self._key("memory.stat", "file")

    def cpu_used_ns(self) -> int | None:
        """Processor time of all processes so far, in nanoseconds."""
        if self._v1:
            return self._number("cpuacct/cpuacct.usage")
        usage_us = self._key("cpu.stat", "usage_usec")
        return None if usage_us is None else usage_us * 1000

    def _read(self, name: str) -> str:
        try:
            return (self._directory / name).read_text(encoding="ascii")
        except OSError:
            return ""

    def _number(self, name: str) -> int | None:
        text = self._read(name).strip()
        return int(text) if text.isdigit() else None

    def _key(self, name: str, key: str) -> int | None:
        for line in self._read(name).splitlines():
            label, _, value = line.partition(" ")
            if label == key and value.strip().isdigit():
                return int(value)
        return None
