"""What a node says of itself and of how a sandbox is doing. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cloister.model.sandbox import EndReason

__all__ = ["EndedSandbox", "NodeInfo", "Sample", "SandboxMetrics", "SandboxNote", "SandboxStats"]


@dataclass(frozen=True, kw_only=True)
class SandboxStats:
    """A sandbox's use of its limits at one instant, read from the kernel."""

    cpu_used_s: float
    """Processor time used since the sandbox began, in seconds."""
    mem_used_bytes: int
    """Without the cache."""
    mem_limit_bytes: int
    oom_kills: int
    pids: int
    disk_used_bytes: int
    disk_total_bytes: int
    mem_cache_bytes: int = 0
    pids_refused: int = 0
    inodes_free: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxStats:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a sandbox used at one instant, and of its processors since the sample before: 100 is one of them, all the time."""

    at: float
    cpu_used_pct: float
    mem_used_bytes: int
    mem_cache_bytes: int
    disk_used_bytes: int


@dataclass(frozen=True, kw_only=True)
class SandboxMetrics:
    """Samples, oldest first, and the bounds that they are to be seen against."""

    mem_limit_bytes: int
    disk_total_bytes: int
    samples: tuple[Sample, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, a list of values for each sample; :meth:`from_json` reads it back."""
        return {**vars(self), "samples": [list(vars(sample).values()) for sample in self.samples]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxMetrics:
        """The inverse of :meth:`to_json`."""
        names = tuple(Sample.__dataclass_fields__)
        samples = tuple(Sample(**dict(zip(names, values, strict=True))) for values in data["samples"])
        return cls(mem_limit_bytes=data["mem_limit_bytes"], disk_total_bytes=data["disk_total_bytes"], samples=samples)


@dataclass(frozen=True, kw_only=True)
class SandboxNote:
    """Something that the node saw happen to a sandbox, for the sandbox's log. ``level`` is one of the API: debug, info, warn, error."""

    sandbox_id: str
    at: float
    level: str
    event: str
    fields: dict[str, int | str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxNote:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """A node's answer to ``ping``."""

    version: str
    instance: int
    creations: dict[str, int] = field(default_factory=dict)
    """Sandboxes created since the supervisor started: ``made_ahead``, ``forked``, ``cold`` (at least one process started by exec)."""
    zygotes: dict[str, int] = field(default_factory=dict)
    """Zygotes that are ready now, by kind."""
    builds: dict[str, int] = field(default_factory=dict)
    """Builds by status: those that wait and run now, and those that ended since the supervisor started."""

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
