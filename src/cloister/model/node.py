"""What a node says of itself and of how a sandbox is doing. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cloister.model.sandbox import EndReason

__all__ = ["EndedSandbox", "NodeInfo", "SandboxStats"]


@dataclass(frozen=True, kw_only=True)
class SandboxStats:
    """A sandbox's use of its limits at one instant, read from the kernel."""

    cpu_used_s: float
    """Processor time used since the sandbox began, in seconds."""
    mem_used_bytes: int
    mem_limit_bytes: int
    oom_kills: int
    pids: int
    disk_used_bytes: int
    disk_total_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxStats:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """A node's answer to ``ping``."""

    version: str
    instance: int

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NodeInfo:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class EndedSandbox:
    """The event that a sandbox ended. ``message`` says more for a person and may be empty."""

    sandbox_id: str
    reason: EndReason
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EndedSandbox:
        """The inverse of :meth:`to_json`."""
        return cls(sandbox_id=data["sandbox_id"], reason=EndReason(data["reason"]), message=data.get("message", ""))
