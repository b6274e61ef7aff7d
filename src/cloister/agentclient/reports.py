"""Checks the events that an agent reported, and bounds them for the sandbox's log. Pure.

A sandbox can send anything here. Invariant: an entry has a plain name, a level of ours, few short fields of harmless characters, and a
time between the last request and now. No entry can pass for one that the server wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard

from cloister.protocol.events import LOG_LEVELS

__all__ = ["Report", "ReportPage", "read_page"]

_EVENT = re.compile(r"[a-z]{1,24}(?:[._][a-z]{1,24}){1,4}\Z")
_FIELD = re.compile(r"[a-z][a-z_]{0,31}\Z")
_STRANGE = re.compile(r"[^A-Za-z0-9 ._:/@+-]")
_AGENT_ID = re.compile(r"[0-9a-f]{1,32}\Z")
_MAX_EVENTS = 500
_MAX_FIELDS = 12
_MAX_TEXT = 64
_FREE_FIELDS = frozenset({"line", "command"})
_MAX_FREE = 240
"""Longest text of those fields: lines that the start command printed, and commands. They may hold any printable character."""
_MAX_NUMBER = 2**53


@dataclass(frozen=True)
class Report:
    """One event that the sandbox reported, checked."""

    sequence: int
    at: float
    level: str
    event: str
    fields: dict[str, str]


@dataclass(frozen=True)
class ReportPage:
    """The answer to one request. When the agent is started again, ``agent_id`` changes and the sequence begins at 0."""

    agent_id: str
    reports: tuple[Report, ...]


def read_page(data: object, *, earliest: float, latest: float) -> ReportPage | None:
    """The page in ``data``, or None if ``data`` has another form."""
    if not isinstance(data, dict) or not isinstance(data.get("events"), list):
        return None
    agent_id, events = data.get("agent_id"), data["events"]
    if not isinstance(agent_id, str) or not _AGENT_ID.match(agent_id):
        return None
    found = []
    last = -1
    for event in events[:_MAX_EVENTS]:
        report = _read_event(event, earliest, latest)
        if report is not None and report.sequence > last:
            found.append(report)
            last = report.sequence
    return ReportPage(agent_id, tuple(found))


def _read_event(event: object, earliest: float, latest: float) -> Report | None:
    if not isinstance(event, dict):
        return None
    sequence, at, kind, fields = (event.get(name) for name in ("sequence", "at", "kind", "fields"))
    if not _is_number(sequence) or not isinstance(sequence, int) or sequence < 0 or not _is_number(at):
        return None
    if not isinstance(kind, str) or not _EVENT.match(kind) or not isinstance(fields, dict):
        return None
    level = fields.get("level")
    kept: dict[str, str] = {}
    for name, value in fields.items():
        if name != "level" and len(kept) < _MAX_FIELDS and _FIELD.match(name) and (text := _text(name, value)) is not None:
            kept[name] = text
    return Report(sequence, min(max(float(at), earliest), latest), level if level in LOG_LEVELS else "info", kind, kept)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER  # NaN is neither


def _text(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and name in _FREE_FIELDS:
        return "".join(one if one.isprintable() else "?" for one in value[:_MAX_FREE].replace("\t", " "))
    if isinstance(value, str):
        return _STRANGE.sub("?", value[:_MAX_TEXT])
    return str(value) if _is_number(value) else None
