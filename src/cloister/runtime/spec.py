"""What a runtime is asked to run: immutable and the same for every runtime. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cloister.model.resources import Limits

__all__ = ["AGENT_PORT", "DEFAULT_PATH", "INTERPRETER_PORT", "MAX_LAYERS", "AgentTree", "SandboxSpec"]

AGENT_PORT = 49983
INTERPRETER_PORT = 49999
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where a template sets none; the agent has the same (agent/process/environment.py)."""
MAX_LAYERS = 128
"""Layers that a template may have; one message to the kernel carries at most 253 descriptors, and its mount points are numbered ahead."""


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
    context: Path | None = None
    """A directory of the host, shown read-only at ``/.cloister/context``; root of the sandbox reads what is root's."""
    zygote_layers: tuple[Path, ...] | None = None
    """What the zygotes of its zone stand on, where that is not ``layers``: code of those must not run in a zone that others share."""
    agent_log: str = "/var/log/cloister-agent.log"
    """Where in the sandbox its agent writes what it has to say."""
    python: str = "/usr/bin/python3"
    """The program that Python kernels run on, in the sandbox."""
    start_timeout_s: float | None = None
    """How long the agent is given to start what the template starts; None: it starts nothing, and has no word about it."""

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of the host that must stay as they are while the sandbox lives."""
        return self.layers if self.agent is None else (*self.layers, *self.agent.interpreter, self.agent.agent)
