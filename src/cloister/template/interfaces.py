"""Interfaces between the parts of a client's template build (docs/decisions/0502-templates-of-clients.md). Declarations only.

::

    node/builds/queue.py                queue, threads, cancellation, resumption after a restart
    node/builds/stages.py               runs one build: calls the three below
    template/building/clientbuild.py    makes the layers: base, cache keys, steps               uses BuildSandboxes, ImageLibrary
    template/building/buildsandboxes.py sandboxes that run steps, and layers made of their disks    is BuildSandboxes
    template/images/library.py          OCI images, and their equivalents, as layers                is ImageLibrary
    node/builds/trial.py                tries the start and ready commands, finds the languages     is Trial

All methods block and run in the build's own thread. Every long operation takes a :class:`Cancellation`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cloister.model.build import ImageSource
from cloister.model.network import PUBLIC_EGRESS, EgressPolicy
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.template.layers import Layer

__all__ = [
    "BaseImage",
    "BuildLog",
    "BuildSandbox",
    "BuildSandboxSpec",
    "BuildSandboxes",
    "Cancellation",
    "HostEndpoint",
    "ImageLibrary",
    "ShellCommand",
    "Trial",
]


class BuildLog(Protocol):
    """Receives the entries of one build's log. Thread-safe."""

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """Add an entry. ``level`` is debug, info, warn or error. A message of several lines becomes several entries."""
        ...


class Cancellation(Protocol):
    """Tells a build that it must end, and stops the operation that is under way."""

    def check(self) -> None:
        """Raises: BuildError when the build was cancelled or has run out of time."""
        ...

    def calling(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """While the context is open, a cancellation calls ``stop`` from another thread, or at once if it came before."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShellCommand:
    """A command line for ``/bin/bash -l -c``. ``cwd`` None: the user's home directory."""

    text: str
    user: str
    cwd: str | None = None
    envs: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class HostEndpoint:
    """A registry on this very host: its name or address, and its port."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class BuildSandboxSpec:
    """A build sandbox, apart from its layers."""

    limits: Limits
    envs: dict[str, str] = field(default_factory=dict)
    context: Path | None = None
    """A host directory, mounted read-only at ``/.cloister/context``. Every user of the sandbox can read its files."""
    egress: EgressPolicy = PUBLIC_EGRESS
    host_layer: bool = True
    """Whether the host layer (certificates, mirrors) lies above the template's layers."""
    host_endpoint: HostEndpoint | None = None
    """The only address and port of the host that the sandbox can reach."""


class BuildSandbox(Protocol):
    """A sandbox of a build. Only the build knows the access token of its agent."""

    def run(self, command: ShellCommand, on_output: Callable[[str, bytes], None]) -> int:
        """Run ``command`` and return its exit status (128 + number for a signal).

        ``on_output`` gets "stdout" or "stderr" and the bytes, as they come.

        Raises: BuildError (no such user or directory, in the official words; out of time; the sandbox ended, with the cause).
        """
        ...

    def operate(self, operation: str, params: dict[str, Any], on_output: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        """Run ``cloister.agent.build.<operation>`` as root of the sandbox and return the result of its function ``run(params)``.

        Raises: BuildError with the operation's own message.
        """
        ...

    def publish(self, key: str, name: str) -> Layer | None:
        """End every process and make the layer ``key`` of the files that were written. None: no file was written.

        The new layer's parent is the sandbox's highest layer.

        Raises: BuildError, NoCapacityError (the store's disk is nearly full), StoreError.
        """
        ...

    def kill(self) -> None:
        """End the sandbox now, from any thread. A call under way fails."""
        ...


class BuildSandboxes(Protocol):
    """Makes build sandboxes."""

    def open(self, layers: tuple[str, ...], spec: BuildSandboxSpec, cancellation: Cancellation) -> AbstractContextManager[BuildSandbox]:
        """A sandbox over the published ``layers`` (keys, lowest first; none: an empty tree). The end of the context removes all of it.

        Raises: BuildError, NoCapacityError, IsolationError, RuntimeFailedError, UnavailableError (no answer at the spec's host endpoint).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """An image as layers, with the accounts and programs that every template has."""

    layers: tuple[str, ...]
    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = "/home/user"
    languages: tuple[str, ...] = ()


class ImageLibrary(Protocol):
    """Images of registries, and their equivalents."""

    def base(
        self, source: ImageSource, team_id: str, limits: Limits, log: BuildLog, cancellation: Cancellation, *, force: bool
    ) -> BaseImage:
        """The layers of an image; pulls it if need be. The log says where they come from.

        Raises: BuildError (no such image, refused credentials, registry not reached and no equivalent: cause and remedy), NoCapacityError.
        """
        ...


class Trial(Protocol):
    """Tries a template in a sandbox of its own. The template's layers are published."""

    def run(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """Start the start command, wait for the ready command, and return the template with its languages.

        Without ``force``, the result of an equal earlier template is taken.

        Raises: BuildError: the start command ended with an error, or the ready command did not pass in time.
        """
        ...
