"""Build sandboxes without a kernel: commands end as a test says, layers are empty directories of a real store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from cloister.errors import BuildError
from cloister.model.build import ImageSource
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.template.interfaces import BaseImage, BuildLog, BuildSandbox, BuildSandboxSpec, Cancellation, ShellCommand
from cloister.template.layers import Layer, LayerStore

__all__ = ["FakeBuildSandboxes", "FakeCancellation", "FakeImages", "Opened", "RecordedLog"]


@dataclass
class RecordedLog:
    """Keeps what was said."""

    entries: list[tuple[str, str, str | None]] = field(default_factory=list)

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`BuildLog`."""
        self.entries.append((level, message, step))

    def lines(self, level: str = "info") -> list[str]:
        """The messages of a level."""
        return [message for one, message, _step in self.entries if one == level]


@dataclass
class FakeCancellation:
    """Ends a build at the check with the number ``after``, counted from 1; 0: never."""

    after: int = 0
    checks: int = 0

    def check(self) -> None:
        """See :class:`Cancellation`."""
        self.checks += 1
        if self.after and self.checks >= self.after:
            raise BuildError("the build was cancelled")

    def calling(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """See :class:`Cancellation`."""
        return contextlib.nullcontext()


@dataclass
class Opened:
    """One sandbox that was made, and what was done in it."""

    layers: tuple[str, ...]
    spec: BuildSandboxSpec
    done: list[Any] = field(default_factory=list)


@dataclass
class FakeBuildSandboxes:
    """See :class:`BuildSandboxes`. ``statuses`` and ``outputs`` are by command, ``results`` by operation. ``true`` writes no file."""

    store: LayerStore
    statuses: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    results: dict[str, dict[str, Any] | Exception] = field(default_factory=dict)
    opened: list[Opened] = field(default_factory=list)
    on_run: Callable[[str], None] = lambda _text: None
    may_be_killed: bool = False

    @contextlib.contextmanager
    def open(self, layers: tuple[str, ...], spec: BuildSandboxSpec, cancellation: Cancellation) -> Iterator[BuildSandbox]:
        """See :class:`BuildSandboxes`."""
        assert all(self.store.has(key) for key in layers)
        opened = Opened(layers, spec)
        self.opened.append(opened)
        yield _FakeBox(self, opened)

    @property
    def commands(self) -> list[str]:
        """Every command that was run."""
        return [done.text for opened in self.opened for done in opened.done if isinstance(done, ShellCommand)]


class _FakeBox:
    def __init__(self, build_sandboxes: FakeBuildSandboxes, opened: Opened) -> None:
        self._build_sandboxes = build_sandboxes
        self._opened = opened
        self._wrote = True

    def run(self, command: ShellCommand, on_output: Callable[[str, bytes], None]) -> int:
        self._opened.done.append(command)
        self._build_sandboxes.on_run(command.text)
        for stream, data in self._build_sandboxes.outputs.get(command.text, ()):
            on_output(stream, data)
        self._wrote = command.text != "true"
        return self._build_sandboxes.statuses.get(command.text, 0)

    def operate(self, operation: str, params: dict[str, Any], on_output: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        self._opened.done.append((operation, params))
        answer = self._build_sandboxes.results.get(operation, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def publish(self, key: str, name: str) -> Layer | None:
        return add_layer(self._build_sandboxes.store, key, name) if self._wrote else None

    def kill(self) -> None:
        assert self._build_sandboxes.may_be_killed, "nobody was to kill it"


def add_layer(store: LayerStore, key: str, name: str = "test") -> Layer:
    """An empty layer."""
    layer = Layer(key=key, name=name, parent=None, size_bytes=0, created_at=0.0, build_s=0.0)
    store.rootfs(key).mkdir(parents=True)
    (store.rootfs(key).parent / "layer.json").write_text(json.dumps(asdict(layer)))
    return layer


@dataclass
class FakeImages:
    """See :class:`ImageLibrary`: one image for every reference."""

    image: BaseImage
    asked: list[tuple[str, bool]] = field(default_factory=list)
    fault: Exception | None = None

    def base(
        self, source: ImageSource, team_id: str, limits: Limits, log: BuildLog, cancellation: Cancellation, *, force: bool
    ) -> BaseImage:
        """See :class:`ImageLibrary`."""
        self.asked.append((source.reference, force))
        if self.fault is not None:
            raise self.fault
        return self.image


def no_parents(name: str) -> Template:
    """Finds nothing."""
    raise AssertionError(f"nobody was to ask for {name}")
