"""Limits of a sandbox, with their units. Plain data: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cloister.errors import InvalidRequestError
from cloister.model.bounds import Quantity, positive

__all__ = ["Limits"]

_INODES_PER_MIB = 1024
"""An inode takes 256 bytes, so this is a quarter of the disk."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The resource limits of one sandbox (invariant I6)."""

    cpu_count: Annotated[float, positive] = 2.0
    mem_mib: Quantity = 1024
    disk_mib: Quantity = 5120
    inodes: Quantity = 500_000
    pids: Quantity = 512
    open_files: Quantity = 65_536
    output_mib: Quantity = 256
    """Output of one execution, stdout and stderr together; beyond it the execution ends with an error."""

    def check(self, where: str) -> None:
        """Raises: InvalidRequestError: the fields do not fit each other."""
        if self.inodes > self.disk_mib * _INODES_PER_MIB:
            raise InvalidRequestError(f"{where}: {self.inodes} inodes do not fit on a disk of {self.disk_mib} MiB")
