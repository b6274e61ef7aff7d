"""A sandbox as the node knows it and as the control plane is told of it. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from cloister.model.resources import Limits

__all__ = ["EndReason", "SandboxRecord", "SandboxRequest", "SandboxState"]


class SandboxState(StrEnum):
    """Where a sandbox is in its life: creating -> running -> ended."""

    CREATING = "creating"
    RUNNING = "running"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a sandbox ended."""

    KILLED = "killed"
    EXPIRED = "expired"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class SandboxRequest:
    """What the control plane asks of a node. Times are seconds since the epoch, UTC."""

    sandbox_id: str
    template: str
    end_at: float
    envs: dict[str, str] = field(default_factory=dict)
    access_token: str | None = None
    """Token that the agent demands as ``X-Access-Token``; None for an insecure sandbox."""
    allow_internet: bool = True
    limits: Limits | None = None
    """None takes the template's."""
    runtime: str | None = None
    """None takes the node's default."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Opaque to the node, kept in its journal and given back with the record (team, metadata, tokens)."""


@dataclass(frozen=True, kw_only=True)
class SandboxRecord:
    """What a node says of a sandbox; also its journal entry."""

    sandbox_id: str
    template: str
    runtime: str
    state: SandboxState
    started_at: float
    end_at: float
    limits: Limits
    allow_internet: bool = True
    attributes: dict[str, Any] = field(default_factory=dict)
    build_id: str = ""
    """Of the template as it was when the sandbox was made; empty in entries from before this was kept."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxRecord:
        """The inverse of :meth:`to_json`."""
        fields = dict(data)
        fields["limits"] = Limits(**fields["limits"])
        fields["state"] = SandboxState(fields["state"])
        return cls(**fields)
