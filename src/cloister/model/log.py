"""An entry of a sandbox's log. Plain data: no I/O, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

__all__ = ["LogEntry"]


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One entry. ``at_ms`` grows from each entry of a sandbox to the next, so it also serves as a position."""

    at_ms: int
    level: str
    """debug, info, warn or error."""
    logger: str
    """Who wrote it: the server (``api``, ``node``), or the sandbox (``agent``), which is not trusted."""
    event: str
    fields: dict[str, str] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """As a line of a file; :meth:`from_line` reads it back."""
        return json.dumps([self.at_ms, self.level, self.logger, self.event, self.fields]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> LogEntry:
        """The inverse of :meth:`to_line`. Raises: ValueError (a line that a crash cut off)."""
        at_ms, level, logger, event, fields = json.loads(line)
        return cls(at_ms=at_ms, level=level, logger=logger, event=event, fields=fields)
