"""What a kernel is to the rest of the interpreter, whatever language and mechanism are behind it.

A kernel is pulled: it reads its process only when :meth:`Kernel.next_events` is awaited, so a client that reads slowly slows the
program and nothing piles up. ``next_events`` may be cancelled at any time and loses nothing. One run at a time: ``begin``, then
``next_events`` until a :class:`Finished` comes, which is the last event of its list. Native kernels are in native.py; kernels
of a kernelspec will stand beside it.
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
    """A MIME bundle; ``main`` when it is the value of the last expression."""

    data: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    main: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """The run's error: the program's own, or what befell the kernel."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run cost. Processor time is that of the kernel and of the children it has waited for."""

    wall_ms: int
    cpu_ms: int | None = None
    peak_mem_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run. ``count`` is None when the kernel ended with it."""

    count: int | None
    cost: Cost


KernelEvent = Output | Display | Failure | Finished


class Kernel(Protocol):
    """A language process that keeps state between runs."""

    @property
    def envs(self) -> Mapping[str, str]:
        """The sandbox's variables as they were when it was started."""

    @property
    def is_alive(self) -> bool:
        """Whether it can run code (again)."""

    @property
    def death_note(self) -> str:
        """Why it is not alive, for a person; empty while it is."""

    @property
    def death_facts(self) -> Mapping[str, Any]:
        """Why it is not alive, as numbers and words of ours, for the sandbox's log."""

    async def wait_ready(self) -> None:
        """Until it can run code.

        Raises: UnavailableError (with what it said while it failed).
        """

    def begin(self, code: str, envs: Mapping[str, str]) -> None:
        """Start a run."""

    async def next_events(self) -> list[KernelEvent]:
        """What has come, at least one event."""

    def stop(self) -> None:
        """Interrupt the run, ever harder; its Finished still comes, within seconds."""

    def kill(self, reason: str) -> None:
        """End the kernel with all its children now; a run gets a Failure with the reason and its Finished."""

    async def close(self) -> None:
        """Kill and free everything."""
