"""The lifecycle of a sandbox that is not in use: the choices of its client, and the ways to keep a paused one. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from cloister.model.bounds import Time, within

__all__ = ["Lifecycle", "Pause", "PauseKind", "TimeoutAction"]

_MAX_SECONDS = 1 << 31


class TimeoutAction(StrEnum):
    """The action of a node at the end of a sandbox's lifetime."""

    KILL = "kill"
    PAUSE = "pause"
    PAUSE_FILES = "pause_files"
    """Pause it and keep its files only."""


class PauseKind(StrEnum):
    """The parts of a sandbox that a pause keeps. A pause may move on from one kind to another, never to one that keeps less."""

    FROZEN = "frozen"
    """Its processes, which do not run, and its memory."""
    CHECKPOINT = "checkpoint"
    """An image of its processes and its memory, on disk."""
    FILES = "files"
    """Its disk. A resume starts it as a new sandbox is started."""

    @property
    def keeps_memory(self) -> bool:
        """Whether its processes go on after a resume."""
        return self is not PauseKind.FILES


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The choices of the client that created the sandbox."""

    on_timeout: TimeoutAction = TimeoutAction.KILL
    wake_s: Annotated[int, within(1, _MAX_SECONDS)] | None = None
    """Traffic wakes the sandbox when it is paused, for this many seconds. None: only a client with a key resumes it."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Lifecycle:
        """The inverse of :meth:`to_json`. Raises: ValueError, TypeError: a choice of a newer release, which must not be passed over."""
        fields = dict(data)
        if "on_timeout" in fields:
            fields["on_timeout"] = TimeoutAction(fields["on_timeout"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A pause that has begun or is complete."""

    kind: PauseKind
    at: Time
    """When it began."""
    why_not_deeper: str = ""
    """Why the sandbox stays frozen although its memory was to be written to disk; for people, empty if it was not."""
    agent_silent: bool = False
    """Its agent did not answer before the pause, so a resume with its memory is of no use. Only the control plane knows."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Pause:
        """The inverse of :meth:`to_json`. Raises: ValueError, TypeError."""
        return cls(**{**data, "kind": PauseKind(data["kind"])})
