"""A name's addresses, kept for a sandbox. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from cloister.egress.reasons import Reason

__all__ = ["Pin"]


@dataclass(frozen=True)
class Pin:
    """The addresses of a name for one sandbox, until a time of the monotonic clock."""

    addresses: tuple[IPv4Address, ...]
    until: float
    code: int = 0
    """The resolver's response code."""
    reason: Reason = "name_not_found"
    """Why there is no address, if there is none."""

    @property
    def lifetime_s(self) -> int:
        """What is left of it, in whole seconds."""
        return max(1, int(self.until - time.monotonic()))
