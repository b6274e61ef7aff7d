"""Checks the chains of the audit log: each line against the one before it, and the last one against the head. Reads only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cloister.model.audit import StoredRecord
from cloister.store.audit import AuditFiles

__all__ = ["ChainReport", "check_chain"]

_MOST_FAULTS = 20


@dataclass
class ChainReport:
    """The state of an owner's chain."""

    owner: str
    count: int = 0
    last: int = 0
    digest: str = ""
    """SHA-256 of the last line."""
    faults: list[str] = field(default_factory=list)
    """At most the first twenty."""

    def add(self, fault: str) -> None:
        """Note a fault."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)


def check_chain(files: AuditFiles, owner: str, known: dict[int, str] | None = None) -> ChainReport:
    """Check an owner's chain. ``known`` are digests of lines, by number, that were noted before: those lines must still be the same."""
    report, digests = ChainReport(owner), dict(known or {})
    head = files.head(owner)
    lines = list(files.lines(owner))
    oldest = (files.head(owner) or (0, 0, ""))[0]  # a writer may have deleted files meanwhile
    previous: StoredRecord | None = None
    for name, line in lines:
        try:
            stored = StoredRecord.from_line(owner, line)
        except ValueError as error:
            report.add(f"{name}: a line is no record ({error})")
            continue
        if previous is not None:
            _compare(report, previous, stored)
        elif head is not None and stored.number > oldest:
            report.add(f"{_range(oldest, stored.number - 1)} missing at the beginning")
        report.digest, report.last = hashlib.sha256(line).hexdigest(), stored.number
        report.count += 1
        if digests.get(stored.number, report.digest) != report.digest:
            report.add(f"record {stored.number} is another than the one that was noted")
        previous = stored
    _compare_head(report, head)
    _compare_known(report, digests, head)
    return report


def _compare(report: ChainReport, before: StoredRecord, stored: StoredRecord) -> None:
    if stored.number <= before.number:
        report.add(f"record {stored.number} is out of order")
    elif stored.number != before.number + 1:
        report.add(f"{_range(before.number + 1, stored.number - 1)} missing")
    elif stored.previous != report.digest:
        report.add(f"record {before.number} was changed")


def _compare_head(report: ChainReport, head: tuple[int, int, str] | None) -> None:
    if head is None:
        report.add("the file head is missing or damaged")
    elif head[1] > report.last and head[0] <= head[1]:
        report.add(f"{_range(max(report.last + 1, head[0]), head[1])} missing at the end")
    elif head[1] == report.last and report.count and head[2] != report.digest:
        report.add(f"record {report.last} was changed")


def _compare_known(report: ChainReport, known: dict[int, str], head: tuple[int, int, str] | None) -> None:
    newest = max(known, default=0)
    if newest > max(report.last, head[1] if head else 0):
        report.add(f"record {newest} was noted, and is missing")


def _range(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
