"""The specifications of sandboxes and of build steps: immutable, plain data, the same for every runtime.

Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cloister.model.network import PUBLIC_EGRESS, EgressPolicy
from cloister.model.resources import Limits
from cloister.model.volume import VolumeMount

__all__ = [
    "AGENT_PROGRAMS",
    "AGENT_PYTHON",
    "BUILD_SHARING",
    "CONTEXT_PATH",
    "MAX_LAYERS",
    "AgentTree",
    "DiskSource",
    "Mount",
    "SandboxSpec",
    "Sharing",
    "StepSpec",
]

MAX_LAYERS = 128
"""Layers that a template may have; one message to the kernel carries at most 253 descriptors, and its mount points are numbered ahead."""
CONTEXT_PATH = "/.cloister/context"
"""Where a sandbox of a build sees the uploaded files of its step."""

_RT = "/.cloister/rt"
AGENT_PYTHON = (
    f"{_RT}/lib64/ld-linux-x86-64.so.2",
    "--argv0",
    f"{_RT}/bin/python3.13",
    "--library-path",
    f"{_RT}/lib/x86_64-linux-gnu",
    f"{_RT}/bin/python3.13",
    "-I",
    "-S",
)
"""How a program in a sandbox starts the agent's own interpreter, whatever the template has."""
AGENT_PROGRAMS = "/.cloister/agent/site/cloister/agent"
"""Where a sandbox sees the agent's programs."""


@dataclass(frozen=True)
class AgentTree:
    """The directories that are mounted read-only at ``/.cloister`` to run the agent (docs/architecture.md)."""

    interpreter: tuple[Path, ...]
    """Root directories of the layers of the base template, lowest first; their ``/usr``, with CPython 3.13, is ``/.cloister/rt``."""
    agent: Path
    """Mounted at ``/.cloister/agent``: ``site/`` and ``drivers/``."""


class DiskSource(Protocol):
    """A sandbox whose disk another sandbox may read (:class:`cloister.runtime.base.RuntimeSandbox`)."""

    def open_disk(self, userns_fd: int) -> int:
        """See :class:`cloister.runtime.base.RuntimeSandbox`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory that a sandbox sees beside its own files. Nothing in it works as a program, a device or a set-user-id file."""

    source: Path | DiskSource
    """A directory of the host, or the disk of another sandbox."""
    target: str
    """An absolute path in the sandbox, below ``/.cloister``, which no layer of a template keeps."""
    is_writable: bool = False
    """Only for a directory of the host."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Which sandboxes may share processes of the runtime, such as a fork server, and whose code those may run."""

    key: str
    """Sandboxes with one key may share helper processes. A runtime never lets sandboxes with different keys share one."""
    runs_template_code: bool = False
    """Whether helpers may run code of the template's layers. Such code has power over every sandbox of the key; all of them have the same
    layers then.
    """


BUILD_SHARING = Sharing(key="build")
"""For all sandboxes of all builds: no code of a template runs in their helpers."""


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """One sandbox to create."""

    sandbox_id: str
    sharing: Sharing
    directory: Path
    """The runtime's own directory for this sandbox, on the data file system; made by the caller."""
    has_disk: bool = False
    """The directory has the disk of a paused sandbox (:meth:`RuntimeSandbox.keep_disk`), to be used instead of a new one.

    The layers of the template are those that the paused sandbox had; the host layer may be a newer one. Files that name the sandbox,
    such as ``/etc/hostname``, stay as the disk has them.
    """
    layers: tuple[Path, ...]
    """Root directories of the read-only layers, lowest first, the host layer last. Owned by ids 0..65535."""
    agent: AgentTree | None
    """None for a build step, which has no agent."""
    limits: Limits
    egress: EgressPolicy = PUBLIC_EGRESS
    team_id: str = ""
    """The team whose sandbox it is; empty: none's, or not known yet."""
    hostname: str = "cloister"
    """A sandbox's is its id, a build step's this."""
    init_document: bytes = b"{}"
    envs: dict[str, str] = field(default_factory=dict)
    """Environment of the agent process itself."""
    languages: tuple[str, ...] = ()
    """Languages whose first kernel the runtime may start by itself, ahead of the agent."""
    python: str = "/usr/bin/python3"
    """The program that Python kernels run on, in the sandbox."""
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    """Those of the client, in the order in which they are mounted: with the capability ``volumes`` alone."""
    agent_log: str = "/var/log/cloister-agent.log"
    """Where in the sandbox the agent writes its log."""
    start_timeout_s: float | None = None
    """How long the agent may take to start what the template starts; None: the template starts nothing, and no outcome is reported."""

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of the host that must stay as they are while the sandbox lives."""
        return self.layers if self.agent is None else (*self.layers, *self.agent.interpreter, self.agent.agent)


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One program that runs in a sandbox of its own, without an agent, until it ends: a step of a template build, or a copy.

    ``upper`` and ``work`` are on one file system; ids inside them are the sandbox's, 0..65535.
    """

    layers: tuple[Path, ...]
    """Root directories of the layers below, lowest first, without the host layer."""
    host_layer: Path | None = None
    upper: Path | None
    """Becomes a layer: gets what the program writes. None: that is thrown away with ``work``."""
    work: Path
    argv: tuple[str, ...]
    envs: dict[str, str]
    cwd: str = "/"
    user: str = "root"
    egress: EgressPolicy = PUBLIC_EGRESS
    limits: Limits
    timeout_s: float
    name: str = "step"
    """The beginning of the sandbox's name."""
    agent: AgentTree | None = None
    """For a program of ours: the interpreter and the programs that it sees at ``/.cloister``."""
    mounts: tuple[Mount, ...] = ()
    descriptor: int | None = None
    """A descriptor that the program gets as number 3; it stays the caller's."""
