"""The interface of a runtime: one way to isolate a sandbox. Everything above it is runtime-neutral.

Calls block and are made from worker threads; implementations are thread-safe.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cloister.runtime.spec import SandboxSpec

__all__ = ["Runtime", "RuntimeCapabilities", "RuntimeSandbox", "Usage"]


@dataclass(frozen=True, kw_only=True)
class RuntimeCapabilities:
    """What a runtime can do; declared, never probed by its name."""

    pause: bool = False
    checkpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a sandbox uses now."""

    cpu_used_s: float
    mem_used_bytes: int
    """Without the cache."""
    mem_cache_bytes: int
    mem_limit_bytes: int
    oom_kills: int
    pids: int
    pids_refused: int
    """Processes that could not be started because there were too many, so far."""
    disk_used_bytes: int
    disk_total_bytes: int
    inodes_free: int


class RuntimeSandbox(Protocol):
    """A live sandbox in the hands of its runtime."""

    cold: tuple[str, ...]
    """Its processes that were started from the beginning, and not as copies of prepared ones: ``agent``, ``kernel``."""

    starting: int | None
    """Readable when it is known whether what the template starts is up (:meth:`take_start`); None: there is nothing to wait for."""

    @property
    def pidfd(self) -> int:
        """Readable when the sandbox has ended, whoever ended it."""
        ...

    @property
    def network_slot(self) -> int:
        """The number by which the network knows it."""
        ...

    def state(self) -> dict[str, Any]:
        """What :meth:`Runtime.adopt` needs after a restart, JSON-ready."""
        ...

    def dial(self) -> socket.socket:
        """A fresh, unconnected TCP socket inside the sandbox's network; the caller closes it."""
        ...

    def rewrite_init(self, document: bytes) -> None:
        """Replace the init document, which an agent that is started again reads. Not for an adopted sandbox."""
        ...

    def set_internet(self, allowed: bool) -> None:
        """Change whether the sandbox may reach the internet, now, also for connections that are open."""
        ...

    def take_start(self) -> None:
        """The outcome of the template's start command; ``starting`` is readable. It is None afterwards.

        Raises: StartFailedError, also when the outcome is not there.
        """
        ...

    def usage(self) -> Usage:
        """What it uses now."""
        ...

    def cpu_used_s(self) -> float:
        """Its processor time so far; cheaper than :meth:`usage`. It has not run since if it has not changed."""
        ...

    def kill(self) -> None:
        """End every process of it and wait until they are gone. Idempotent."""
        ...

    def release(self) -> None:
        """Give back everything it held. After :meth:`kill`; idempotent."""
        ...


class Runtime(Protocol):
    """Creates sandboxes and adopts those that survived a restart of the supervisor."""

    name: str
    capabilities: RuntimeCapabilities

    def prepare(self, spec: SandboxSpec) -> None:
        """Make ready what speeds up creations from the template of ``spec``, or find that it cannot be had; may take seconds."""
        ...

    def has_room(self, template_key: str) -> bool:
        """Whether there is, or may at once be, a place for another sandbox of this template."""
        ...

    def let_go(self, idle_s: float) -> list[str]:
        """Give back what is held for templates of which there was no sandbox for so long; says what was given back."""
        ...

    def stop_preparing(self) -> None:
        """End the prepared processes, and let nobody wait for one any more: the node is about to stop. Sandboxes go on."""
        ...

    def prepared(self) -> dict[str, int]:
        """How many prepared processes of each kind are ready to be copied into sandboxes now."""
        ...

    def create(self, spec: SandboxSpec, on_started: Any) -> RuntimeSandbox:
        """A sandbox whose agent serves; what the template starts in it may be on its way still (:attr:`RuntimeSandbox.starting`).

        ``on_started(state)`` is called as soon as there is something to adopt.

        Raises: IsolationError (a hardening step failed), RuntimeFailedError (the agent did not start), NoCapacityError.
        Nothing of the sandbox is left when it raises.
        """
        ...

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> RuntimeSandbox | None:
        """The sandbox that ``state`` describes, if it lives; None if not.

        Raises: IsolationError, OSError when it lives and cannot be taken over; it is ended then.
        """
        ...

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """Remove what belongs to this instance and to no sandbox that is ``known``; says what was removed.

        ``known`` is asked from this thread, after the look at what there is: what is made meanwhile is no leftover.
        """
        ...

    def survey(self) -> list[str]:
        """Every kernel object and file that this runtime holds now, a line each (the census)."""
        ...

    def stop(self) -> None:
        """Remove everything: sandboxes, helpers, network."""
        ...
