"""A team's secret, as the store keeps it. Plain data: the value is encrypted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["StoredSecret", "is_secret_name"]

_NAME = re.compile(r"(?!sec_)[a-z0-9_-]{1,128}\Z")


def is_secret_name(text: str) -> bool:
    """Whether a secret may have this name, which is in lower case and does not look like an id."""
    return bool(_NAME.match(text))


@dataclass(frozen=True, kw_only=True)
class StoredSecret:
    """A named text that header rules put into requests of the team's sandboxes. Times are seconds since the epoch, UTC."""

    secret_id: str
    team_id: str
    name: str
    """In lower case; unique in the team."""
    metadata: dict[str, str]
    created_at: float
    updated_at: float
    version: int
    """Of the value: 1, and one more with each change."""
    key_id: str
    """The key that the value is encrypted with."""
    sealed: bytes = field(repr=False)
    """The encrypted value."""
