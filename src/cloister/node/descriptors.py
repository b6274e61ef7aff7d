"""Counts the open descriptors of the server's processes, and reads how many each may open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloister.linux.process import count_descriptors, descriptor_limit

__all__ = ["DescriptorCounts"]


@dataclass(frozen=True)
class DescriptorCounts:
    """The processes by name. Each function returns the process's id now; None: it does not run."""

    pids: Mapping[str, Callable[[], int | None]] = field(default_factory=dict)

    async def read(self) -> tuple[dict[str, int], dict[str, int]]:
        """The counts and the limits of those that run."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[dict[str, int], dict[str, int]]:
        counts, limits = dict[str, int](), dict[str, int]()
        for name, find in self.pids.items():
            pid = find()
            if pid is not None and (count := count_descriptors(pid)) is not None and (limit := descriptor_limit(pid)) is not None:
                counts[name], limits[name] = count, limit
        return counts, limits
