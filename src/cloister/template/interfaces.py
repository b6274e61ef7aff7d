"""What the parts of a client's template build are to each other (docs/decisions/0502-templates-of-clients.md). Only declarations.

::

    node/builds.py                   queue, threads, logs on disk, cancel, resumption          asks template/building/recipe.py
    template/building/recipe.py      one build from request to template: keys, cache, steps    asks the protocols below
    template/building/workbench.py   sandboxes for steps, and layers made of them              Workbench
    template/images/library.py       OCI images and their equivalents to layers                ImageLibrary
    node/trial.py                    start and ready command tried, languages found            Trial

All of it blocks and runs in a build's own thread. Whatever takes long listens to a :class:`Cancellation`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cloister.model.build import ImageSource
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.template.layers import Layer

__all__ = ["BaseImage", "BoxSpec", "BuildLog", "BuildSandbox", "Cancellation", "Command", "HostDoor", "ImageLibrary", "Trial", "Workbench"]


class BuildLog(Protocol):
    """Takes a build's log. Thread-safe."""

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """One entry; ``level`` is debug, info, warn or error. A message of several lines becomes several entries."""
        ...


class Cancellation(Protocol):
    """Whether a build is to end, and what must be ended for it."""

    def check(self) -> None:
        """Raises: BuildError when the build was cancelled or its time is over."""
        ...

    def calling(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """While the context is open, a cancellation calls ``stop`` (from another thread), at once if it has come already."""
        ...


@dataclass(frozen=True, kw_only=True)
class Command:
    """A shell text, run as ``/bin/bash -l -c``; ``cwd`` None takes the user's home."""

    text: str
    user: str
    cwd: str | None = None
    envs: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class HostDoor:
    """A registry of this very host: its name or address, and its port."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """What a build sandbox is made of, beside its layers."""

    limits: Limits
    envs: dict[str, str] = field(default_factory=dict)
    context: Path | None = None
    """A directory of the host, shown read-only at ``/.cloister/context``; its files are readable by everybody."""
    allow_internet: bool = True
    host_layer: bool = True
    """Whether the host's certificates and mirrors lie above the layers."""
    door: HostDoor | None = None
    """The one thing of the host that it reaches."""


class BuildSandbox(Protocol):
    """A sandbox of a build, with an agent that nobody else reaches."""

    def run(self, command: Command, on_output: Callable[[str, bytes], None]) -> int:
        """The exit status of ``command`` (128 + number for a signal); ``on_output`` gets ("stdout" or "stderr", bytes) as they come.

        Raises: BuildError (no such user or directory, in the official words; out of time; the sandbox ended, with the cause).
        """
        ...

    def operate(self, operation: str, params: dict[str, Any], on_output: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        """Run ``cloister.agent.build.<operation>`` as root of the sandbox: its function ``run(params)`` gives the result.

        Raises: BuildError with what the operation said.
        """
        ...

    def publish(self, key: str, name: str) -> Layer | None:
        """End every process, and make what was written the layer ``key`` on top of those that the sandbox stands on; None: nothing was.

        Raises: BuildError, NoCapacityError (the store's disk is nearly full), StoreError.
        """
        ...

    def kill(self) -> None:
        """End it now, from any thread: a call under way fails."""
        ...


class Workbench(Protocol):
    """Makes build sandboxes."""

    def open(self, layers: tuple[str, ...], spec: BoxSpec, cancellation: Cancellation) -> AbstractContextManager[BuildSandbox]:
        """A sandbox over the published ``layers`` (keys, lowest first; none: an empty tree). Nothing of it is left at the end.

        Raises: BuildError, NoCapacityError, IsolationError, RuntimeFailedError, UnavailableError (nothing is behind the spec's door).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """An image as layers, ready to be built upon: with the accounts and programs that every template has."""

    layers: tuple[str, ...]
    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = "/home/user"
    languages: tuple[str, ...] = ()


class ImageLibrary(Protocol):
    """Images of registries, and what stands for them."""

    def base(
        self, source: ImageSource, team_id: str, limits: Limits, log: BuildLog, cancellation: Cancellation, *, force: bool
    ) -> BaseImage:
        """The layers of an image, pulled if need be. Says in the log where they come from.

        Raises: BuildError (no such image, refused credentials, registry not reached and no equivalent: cause and remedy), NoCapacityError.
        """
        ...


class Trial(Protocol):
    """Tries a template whose layers are published, in a sandbox of its own."""

    def __call__(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """The template with its languages; its start command was started and its ready command has passed.

        Without ``force`` an earlier build of the same will do.

        Raises: BuildError: the start command ended with an error, or the ready command did not pass in time.
        """
        ...
