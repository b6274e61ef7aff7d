"""An archive that a team uploaded for its builds. Plain data: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Upload"]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An uploaded archive, under a hash that the client chose."""

    team_id: str
    hash: str
    size_bytes: int
    digest: str | None = None
    created_at: float
    used_at: float
