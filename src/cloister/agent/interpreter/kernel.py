"""The interface of a kernel to the rest of the interpreter, for every language and mechanism.

A kernel is pulled: it reads its process only while :meth:`Kernel.next_events` is awaited. A client that reads slowly therefore slows the
program, and no output accumulates. ``next_events`` may be cancelled at any time and loses no event. One run at a time: ``begin``, then
``next_events`` until a list ends with :class:`Finished`. driver_kernel.py has the only implementation: a driver process, of a native
language or of a Jupyter kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Cost", "Display", "Failure", "Finished", "Kernel", "KernelEvent", "Output"]


@dataclass(frozen=True, slots=True)
class Output:
    """Text that the program wrote to ``stdout`` or ``stderr``."""

    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """A MIME bundle; ``main`` if it is the value of the last expression."""

    data: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    main: bool = False
    size: int = field(default=0, compare=False)
    """Bytes of the message that carried it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The run's error: the program's own, or the kernel's death."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a run. Processor time is that of the kernel and of the children that it has waited for."""

    wall_ms: int
    cpu_ms: int | None = None
    peak_mem_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run. ``count`` is None if the kernel ended with it."""

    count: int | None
    cost: Cost


KernelEvent = Output | Display | Failure | Finished


class Kernel(Protocol):
    """A language process that keeps state between runs."""

    @property
    def envs(self) -> Mapping[str, str]:
        """The sandbox's variables at the kernel's start."""

    @property
    def is_alive(self) -> bool:
        """Whether it can run code (again)."""

    @property
    def death_note(self) -> str:
        """Why it is not alive, for the user; empty while it is alive."""

    @property
    def death_facts(self) -> Mapping[str, Any]:
        """Why it is not alive, as numbers and words of ours, for the sandbox's log."""

    async def wait_ready(self) -> None:
        """Wait until it can run code.

        Raises: UnavailableError (with the kernel's output so far).
        """

    def begin(self, code: str, envs: Mapping[str, str]) -> None:
        """Start a run."""

    async def next_events(self) -> list[KernelEvent]:
        """The events that have come, at least one."""

    async def warm_up(self, code: str) -> None:
        """Run a cell of ours, whose output no client gets and which does not count."""

    def stop(self) -> None:
        """Interrupt the run, by stronger means as time passes; its Finished still comes, within seconds."""

    def renew(self) -> None:
        """The sandbox is a copy of another: renew random generators, now or before the next run, if the kernel can."""

    def kill(self, reason: str) -> None:
        """End the kernel with all its children now; the run gets a Failure with the reason, and its Finished."""

    async def close(self) -> None:
        """Kill and free everything."""
