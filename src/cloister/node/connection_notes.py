"""Bounds the records of one sandbox's connections: a burst, then a rate, and sums of the rest. Pure: no clock, no I/O.

A sandbox can open and close thousands of connections a second. Those beyond its allowance count in one record for each verdict and rule,
which has no address and is told once a period (I6).
"""

from __future__ import annotations

import dataclasses
import re

from cloister.model.connection import ConnectionRecord

__all__ = ["BURST", "PERIOD_S", "RATE_PER_S", "ConnectionNotes", "fields_of", "reason_of"]

BURST = 100.0
RATE_PER_S = 1.0
PERIOD_S = 30.0
_MAX_SUMS = 16
_OTHERS = "others"
_MAX_NAME = 253
_MAX_RULE = 300
_ODD = re.compile(r"[^A-Za-z0-9._*-]")
"""Characters of no host name."""
_REASON = re.compile(r"[A-Za-z]+(?:_[A-Za-z]+)*")
_MAX_REASON = 40


class ConnectionNotes:
    """The records of one sandbox that are due, from those that are heard of. Times are of any steady clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._allowance = BURST
        self._at = now
        self._sums: dict[tuple[str, str], ConnectionRecord] = {}
        self._summed_at = now
        """When the sums were told last, or the first of the present ones came."""

    def hear(self, record: ConnectionRecord, now: float) -> ConnectionRecord | None:
        """The record to tell now; None: it counts in a sum."""
        self._allowance = min(BURST, self._allowance + max(0.0, now - self._at) * RATE_PER_S)
        self._at = now
        if self._allowance >= 1:
            self._allowance -= 1
            return record
        if not self._sums:
            self._summed_at = now
        key = (record.verdict, record.rule)
        if key not in self._sums and len(self._sums) >= _MAX_SUMS:
            key = (record.verdict, _OTHERS)
        self._sums[key] = _sum(self._sums.get(key), record, key[1])
        return None

    def due(self, now: float, *, last: bool = False) -> list[ConnectionRecord]:
        """The sums to tell now. The ``last`` call returns all that is left."""
        if not self._sums or (now - self._summed_at < PERIOD_S and not last):
            return []
        sums, self._sums = list(self._sums.values()), {}
        return sums

    def is_idle(self, now: float) -> bool:
        """Whether a new object would be the same as this."""
        return not self._sums and self._allowance + (now - self._at) * RATE_PER_S >= BURST


def _sum(total: ConnectionRecord | None, record: ConnectionRecord, rule: str) -> ConnectionRecord:
    if total is None:
        return dataclasses.replace(record, protocol="", address="", port=0, name=None, is_looked_up=False, duration_s=None, rule=rule)
    return dataclasses.replace(
        total,
        sent_bytes=total.sent_bytes + record.sent_bytes,
        received_bytes=total.received_bytes + record.received_bytes,
        count=total.count + record.count,
    )


def fields_of(record: ConnectionRecord) -> dict[str, int | str]:
    """The fields of the log entry ``network.connection``. Names come from the sandbox: odd characters become question marks."""
    found: dict[str, int | str | None] = {
        "verdict": record.verdict,
        "rule": record.rule[:_MAX_RULE],
        "protocol": record.protocol or None,
        "address": record.address or None,
        "port": record.port or None,
        "name": _ODD.sub("?", record.name[:_MAX_NAME]) if record.name else None,
        "name_from": "lookup" if record.name and record.is_looked_up else None,
        "began_at": f"{record.at:.3f}",
        "duration_s": None if record.duration_s is None else f"{record.duration_s:.3f}",
        "sent_bytes": record.sent_bytes,
        "received_bytes": record.received_bytes,
        "count": record.count,
    }
    return {name: value for name, value in found.items() if value is not None}


def reason_of(rule: str) -> str:
    """The kind of a rule or refusal, without the client's own words, for counters: ``allowOut``, ``no_internet``, ``request_refused``."""
    match = _REASON.match(rule)
    return match[0][:_MAX_REASON] if match else "other"
