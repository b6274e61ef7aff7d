"""What a runtime is asked to run: immutable and the same for every runtime. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cloister.model.resources import Limits

__all__ = ["AGENT_PORT", "INTERPRETER_PORT", "AgentTree", "SandboxSpec"]

AGENT_PORT = 49983
INTERPRETER_PORT = 49999


@dataclass(frozen=True)
class AgentTree:
    """What is mounted read-only at ``/.cloister`` to run the agent (docs/architecture.md)."""

    interpreter: tuple[Path, ...]
    """Root directories of the layers of the base template, lowest first; their ``/usr``, with CPython 3.13, is ``/.cloister/rt``."""
    agent: Path
    """Mounted at ``/.cloister/agent``: ``site/`` and ``drivers/``."""


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """One sandbox to create."""

    sandbox_id: str
    template_key: str
    """Sandboxes of one key may share a slot maker; another template has another key."""
    directory: Path
    """The runtime's own directory for this sandbox, on the data file system; made by the caller."""
    layers: tuple[Path, ...]
    """Root directories of the read-only layers, lowest first, the host layer last. Owned by ids 0..65535."""
    agent: AgentTree | None
    """None for a build step, which has no agent."""
    limits: Limits
    allow_internet: bool = True
    hostname: str = "cloister"
    """A sandbox's is its id, a build step's this."""
    init_document: bytes = b"{}"
    envs: dict[str, str] = field(default_factory=dict)
    """Environment of the agent process itself."""
    languages: tuple[str, ...] = ()
    """Those whose first kernel the runtime may start by itself, ahead of the agent."""
