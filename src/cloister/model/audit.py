"""A record of the audit log, and the queries of it. Plain data: no I/O, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["OPERATOR", "AuditQuery", "AuditRecord", "StoredRecord"]

OPERATOR = "operator"
"""The owner of records that belong to no team."""
_MAX_TEXT = 128
"""Characters of each text of a record: so the length of a line is bounded."""
_DIGEST_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One change: who asked for it, and what came of it. It never has a secret, code or the value of a variable."""

    at: float
    team_id: str | None
    """None: the change concerns the whole server."""
    key_id: str | None
    """Id of the API key; None: the change was not made by a request."""
    address: str
    """The client's IP address; ``uid:<number>`` of the user for a command on the server's host."""
    action: str
    """Such as ``sandbox.create``."""
    object_id: str
    """Id of the changed object; empty if there is none."""
    status: int | None = None
    """HTTP status of the answer; None for a command."""
    error: str | None = None
    """Code of the error; None: the change was made."""
    request_id: str | None = None

    @property
    def owner(self) -> str:
        """The team, or ``operator``."""
        return self.team_id or OPERATOR

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, with texts cut to their bound."""
        return {
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "team_id": self.team_id,
            "key_id": self.key_id,
            "address": self.address[:_MAX_TEXT],
            "action": self.action[:_MAX_TEXT],
            "object_id": self.object_id[:_MAX_TEXT],
            "status": self.status,
            "error": self.error,
            "request_id": self.request_id,
        }


@dataclass(frozen=True)
class StoredRecord:
    """A record of an owner's chain, with its number and the digest of the record before it."""

    owner: str
    number: int
    previous: str
    """SHA-256 of the line before, in hexadecimal."""
    record: AuditRecord

    @classmethod
    def from_line(cls, owner: str, line: bytes) -> StoredRecord:
        """Parse a line. Raises: ValueError: it is no record."""
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError("the line is no object")  # noqa: TRY004 - callers expect one kind of error for every damage
        try:
            number, previous, at = data.pop("number"), data.pop("previous"), datetime.fromisoformat(data.pop("at")).timestamp()
            record = AuditRecord(at=at, **data)
        except (KeyError, TypeError) as error:
            raise ValueError("the line has other fields than a record") from error
        if not isinstance(number, int) or not isinstance(previous, str) or len(previous) != _DIGEST_DIGITS:
            raise ValueError("the line has no number or no digest")
        return cls(owner, number, previous, record)

    def to_line(self) -> bytes:
        """As a line of a file."""
        return json.dumps({"number": self.number, **self.record.to_json(), "previous": self.previous}).encode() + b"\n"

    @property
    def position(self) -> tuple[float, str, int]:
        """Its place among all owners' records."""
        return self.record.at, self.owner, self.number


@dataclass(frozen=True, kw_only=True)
class AuditQuery:
    """Conditions on records; None or empty: any. Times are epoch seconds."""

    owner: str | None = None
    action: str | None = None
    """An action, or the beginning of one up to a dot: ``sandbox`` means ``sandbox.create`` too."""
    object_id: str | None = None
    since: float | None = None
    before: tuple[float, str, int] | None = None
    """Only records older than the one at this position."""
    limit: int = 100

    def accepts(self, record: AuditRecord) -> bool:
        """Whether the record meets the conditions, except for its position."""
        return (
            (self.action is None or record.action == self.action or record.action.startswith(f"{self.action}."))
            and (self.object_id is None or record.object_id == self.object_id)
            and (self.since is None or record.at >= self.since)
        )
