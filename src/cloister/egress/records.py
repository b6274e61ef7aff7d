"""Collects records of connections for the supervisor, bounded under floods.

In each interval a sandbox gets at most ``PER_SANDBOX`` records of their own. Further connections count in a record of the same verdict and
rule; where there is none, they are lost, and counted as such.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from cloister.egresswire.link import MAX_RECORDS, Records
from cloister.model.connection import ConnectionRecord

__all__ = ["INTERVAL_S", "PER_SANDBOX", "RecordBuffer"]

INTERVAL_S = 1.0
PER_SANDBOX = 50
_MAX_WAITING = 20_000
"""Records of all sandboxes that wait for the supervisor."""


class RecordBuffer:
    """The records since the last :meth:`take`."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[ConnectionRecord]] = defaultdict(list)
        self._count = 0
        self._lost = 0

    def add(self, record: ConnectionRecord) -> None:
        """Note a connection that ended or was refused."""
        records = self._waiting[record.sandbox_id]
        if len(records) < PER_SANDBOX and self._count < _MAX_WAITING:
            records.append(record)
            self._count += 1
            return
        for index in range(len(records) - 1, -1, -1):
            like = records[index]
            if (like.verdict, like.rule) == (record.verdict, record.rule):
                records[index] = _merged(like, record)
                return
        self._lost += record.count

    def take(self) -> list[Records]:
        """Messages with all records, which are forgotten here."""
        records = [record for found in self._waiting.values() for record in found]
        lost, self._lost, self._count = self._lost, 0, 0
        self._waiting.clear()
        parts = [tuple(records[start : start + MAX_RECORDS]) for start in range(0, len(records), MAX_RECORDS)]
        if lost and not parts:
            parts = [()]
        return [Records(part, lost if index == 0 else 0) for index, part in enumerate(parts)]


def _merged(one: ConnectionRecord, more: ConnectionRecord) -> ConnectionRecord:
    return dataclasses.replace(
        one,
        sent_bytes=one.sent_bytes + more.sent_bytes,
        received_bytes=one.received_bytes + more.received_bytes,
        count=one.count + more.count,
    )
