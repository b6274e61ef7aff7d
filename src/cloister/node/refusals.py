"""What a sandbox's log is told of refused connections: each target once a period, a bounded number of targets, the rest as one number.

Pure: no clock, no I/O. A target is told as soon as it is heard of, with the packets so far; what follows is added up until the period is
over. One that was silent for a whole period makes room for another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister.network.refusals import Refusal, Target

__all__ = ["LISTED", "PERIOD_S", "RefusalNotes", "Told"]

PERIOD_S = 60.0
LISTED = 16

Told = tuple[str, dict[str, int | str]]
"""A note's event and fields."""


@dataclass
class _Heard:
    packets: int = 0
    told_at: float = -math.inf

    def take(self, now: float, *, last: bool) -> int:
        """The packets to tell now; 0: none yet."""
        if not self.packets or (now - self.told_at < PERIOD_S and not last):
            return 0
        packets, self.packets, self.told_at = self.packets, 0, now
        return packets


class RefusalNotes:
    """Of one sandbox. At most ``LISTED`` targets are remembered."""

    def __init__(self) -> None:
        self._targets: dict[Target, _Heard] = {}
        self._others = _Heard()

    def hear(self, refusal: Refusal) -> None:
        """Add what was read."""
        heard = self._others
        if refusal.target is not None and (refusal.target in self._targets or len(self._targets) < LISTED):
            heard = self._targets.setdefault(refusal.target, _Heard())
        heard.packets += refusal.packets

    def due(self, now: float, *, last: bool = False) -> list[Told]:
        """What to tell at ``now`` (seconds of any steady clock); all that is untold if it is the ``last`` time."""
        told: list[Told] = []
        for target, heard in tuple(self._targets.items()):
            if not heard.packets and now - heard.told_at >= PERIOD_S:
                del self._targets[target]
            elif packets := heard.take(now, last=last):
                told.append(("network.refused", _fields(target, packets)))
        if packets := self._others.take(now, last=last):
            told.append(("network.refused_others", {"count": packets}))
        return told


def _fields(target: Target, packets: int) -> dict[str, int | str]:
    port = {"port": target.port} if target.port else {}
    return {"destination": target.destination, "protocol": target.protocol, **port, "reason": target.reason, "count": packets}
