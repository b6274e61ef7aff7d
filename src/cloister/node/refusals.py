"""Turns refused connections into notes for a sandbox's log: at most one a period for each target, for a bounded number of targets.

Pure: no clock, no I/O. The first packet to a target makes a note at once. Later packets are counted until the period is over. A target
without packets for a whole period makes room for another one. All targets beyond the bound share one count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister.network.refusals import Refusal, Target

__all__ = ["LISTED", "PERIOD_S", "RefusalNotes", "Told"]

PERIOD_S = 60.0
LISTED = 16

Told = tuple[str, dict[str, int | str]]
"""The event and the fields of a note."""


@dataclass
class _Heard:
    packets: int = 0
    told_at: float = -math.inf

    def take(self, now: float, *, last: bool) -> int:
        """The packets to report now; 0: none, or the period is not over."""
        if not self.packets or (now - self.told_at < PERIOD_S and not last):
            return 0
        packets, self.packets, self.told_at = self.packets, 0, now
        return packets


class RefusalNotes:
    """The notes of one sandbox. It remembers at most ``LISTED`` targets."""

    def __init__(self) -> None:
        self._targets: dict[Target, _Heard] = {}
        self._others = _Heard()

    def hear(self, refusal: Refusal) -> None:
        """Count the packets of a refusal that was read."""
        heard = self._others
        if refusal.target is not None and (refusal.target in self._targets or len(self._targets) < LISTED):
            heard = self._targets.setdefault(refusal.target, _Heard())
        heard.packets += refusal.packets

    def due(self, now: float, *, last: bool = False) -> list[Told]:
        """The notes that are due at ``now`` (seconds of any steady clock). The ``last`` call returns all that is left."""
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
