"""The most that one sandbox or build may ask of this host: the api process, which asks, is not trusted to be modest (I6)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cloister.errors import InvalidRequestError
from cloister.linux.meminfo import memory_mib
from cloister.model.build import BuildRequest
from cloister.model.resources import Limits

__all__ = ["Ceiling", "host_ceiling"]

_REST = {"inodes": 50_000_000, "pids": 32_768, "open_files": 1_048_576, "output_mib": 65_536}
"""Of what has no setting: what no sandbox sensibly needs."""
_WORDS = {"cpu_count": "processors", "mem_mib": "MiB of memory", "disk_mib": "MiB of disk"}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Upper bounds of limits."""

    cpu_count: float
    mem_mib: int
    disk_mib: int

    def check(self, asked: Limits | BuildRequest) -> None:
        """Raises: InvalidRequestError: one of what is ``asked`` is more than the host gives; what is None asks for nothing."""
        for name, words in _WORDS.items():
            wanted, most = getattr(asked, name), getattr(self, name)
            if wanted is not None and wanted > most:
                raise InvalidRequestError(
                    f"{wanted:g} {words} are more than the {most:g} that one sandbox may have here", hint=f"the server's setting max_{name}"
                )
        for name, most in _REST.items():
            if (wanted := getattr(asked, name, 0)) > most:
                raise InvalidRequestError(f"a limit of {wanted} {name.replace('_', ' ')} is more than the {most} that one sandbox may have")


def host_ceiling(defaults: Limits, cpu_count: float | None, mem_mib: int | None, disk_mib: int) -> Ceiling:
    """The settings' bounds; where there is none the host's own size, but never less than a sandbox has by default."""
    return Ceiling(
        cpu_count=cpu_count or max(float(os.cpu_count() or 1), defaults.cpu_count),
        mem_mib=mem_mib or max(memory_mib("MemTotal"), defaults.mem_mib),
        disk_mib=max(disk_mib, defaults.disk_mib),
    )
