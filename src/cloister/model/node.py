"""A node's reports: about itself, and about its sandboxes. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cloister.model.drain import DrainState
from cloister.model.durations import DurationCounts
from cloister.model.lifecycle import Pause
from cloister.model.sandbox import EndReason

__all__ = [
    "CreationTimes",
    "EndedSandbox",
    "NodeInfo",
    "PausedSandbox",
    "Sample",
    "SandboxMetrics",
    "SandboxNote",
    "SandboxUsage",
    "TimedStep",
]


@dataclass(frozen=True, kw_only=True)
class SandboxUsage:
    """The usage of a sandbox at one instant, read from the kernel, with the limits that it counts against."""

    cpu_used_s: float
    """Processor time since the sandbox began."""
    mem_used_bytes: int
    """Without the page cache."""
    mem_cache_bytes: int
    mem_limit_bytes: int
    oom_kills: int
    """Processes that the kernel killed because the memory was used up, so far."""
    pids: int
    pids_refused: int
    """Forks that failed because there were too many processes, so far."""
    disk_used_bytes: int
    disk_total_bytes: int
    inodes_free: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sandbox's usage at one instant. ``cpu_used_pct`` is the average since the previous sample; 100 is one CPU."""

    at: float
    cpu_used_pct: float
    mem_used_bytes: int
    mem_cache_bytes: int
    disk_used_bytes: int


@dataclass(frozen=True, kw_only=True)
class SandboxMetrics:
    """Samples, oldest first, with the sandbox's limits."""

    mem_limit_bytes: int
    disk_total_bytes: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class SandboxNote:
    """An event that the node reports for a sandbox's log. ``level`` is one of the API: debug, info, warn, error."""

    sandbox_id: str
    at: float
    level: str
    event: str
    fields: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """A step of a creation: its name, when it began (epoch seconds), and how long it took."""

    name: str
    began_at: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CreationTimes:
    """How long creations took that went one way, from the node's request to the running sandbox."""

    way: str
    """``made_ahead``, ``forked`` or ``cold``, as in :attr:`NodeInfo.creations`."""
    kind: str
    """Of the template: ``stock``, ``client`` (a client built it, or a snapshot without memory), or ``memory`` (it has its memory)."""
    times: DurationCounts


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """A node's answer to ``ping``."""

    node_id: str
    """Stays the same as long as the node's data directory does."""
    version: str
    instance: int
    creations: dict[str, int] = field(default_factory=dict)
    """Sandboxes created since the supervisor started: ``made_ahead``, ``forked``, ``cold`` (at least one process started by exec)."""
    zygotes: dict[str, int] = field(default_factory=dict)
    """Zygotes that are ready now, by kind."""
    builds: dict[str, int] = field(default_factory=dict)
    """Builds by status: waiting and running ones now, ended ones since the supervisor started."""
    disk: dict[str, int] = field(default_factory=dict)
    """The data directory's file system: ``free``, ``promised`` and ``spare`` bytes; sandboxes ``stopped`` for lack of space."""
    saves_memory: tuple[str, ...] = ()
    """Runtimes (with the capability ``checkpoint``) whose sandboxes can be saved on disk, captured and copied with their memory."""
    memory: dict[str, int] = field(default_factory=dict)
    """The host's memory: ``available`` and ``reserve`` bytes; requests ``refused`` for lack of it."""
    paused: dict[str, int] = field(default_factory=dict)
    """Paused sandboxes now, by kind, and the bytes of frozen ones, ``resident`` and ``swapped``; see node/paused_memory.py for the rest."""
    changes: dict[str, int] = field(default_factory=dict)
    """Pauses and resumes since the supervisor started, by outcome; see node/pausing.py."""
    on_stop: str = ""
    """The action of a stop now: its setting, or ``pause`` instead of ``kill`` while it is drained."""
    drain: DrainState | None = None
    """None: it takes sandboxes."""
    connections: dict[str, int] = field(default_factory=dict)
    """Connections of sandboxes and their bytes since the supervisor started, by ``<what>/<verdict>/<reason>``; see node/connections.py."""
    started_at: float = 0.0
    """When the supervisor started (epoch seconds)."""
    creation_times: tuple[CreationTimes, ...] = ()
    pool: dict[str, int] = field(default_factory=dict)
    """Sandboxes made ahead: ``ready`` ones, and how many are ``wanted``."""
    limits_met: dict[str, int] = field(default_factory=dict)
    """How often sandboxes met a limit since the supervisor started: ``memory`` (processes killed), ``processes``, ``disk``."""
    descriptors: dict[str, int] = field(default_factory=dict)
    """Open descriptors by process: ``supervisor``, ``launcher``, ``egress``."""
    descriptor_limits: dict[str, int] = field(default_factory=dict)
    """The most that each of them may open."""
    outdated: dict[str, int] = field(default_factory=dict)
    """By stock template that was checked: how many of its packages have updates."""
    room: dict[str, int] = field(default_factory=dict)
    """For placement: ``cpu_count`` and ``mem_mib`` of the host, ``live`` sandboxes (paused ones with processes too), and the most of them,
    ``max_sandboxes``."""
    runtimes: tuple[str, ...] = ()
    """Runtimes that a request may name."""
    updates_checked_at: float = 0.0
    """When the templates were last checked for updates (epoch seconds); 0: never."""


@dataclass(frozen=True, kw_only=True)
class PausedSandbox:
    """The node has paused a sandbox by itself, or has changed how it keeps a paused one."""

    sandbox_id: str
    pause: Pause


@dataclass(frozen=True, kw_only=True)
class EndedSandbox:
    """The end of a sandbox, at ``at`` (epoch seconds). ``message`` has details for people and may be empty."""

    sandbox_id: str
    reason: EndReason
    message: str = ""
    at: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EndedSandbox:
        """The inverse of :meth:`to_json`."""
        return cls(sandbox_id=data["sandbox_id"], reason=EndReason(data["reason"]), message=data["message"], at=data["at"])
