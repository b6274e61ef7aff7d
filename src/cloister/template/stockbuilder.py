"""Builds stock templates, and trees with such definitions: definition in, published layers and a template record out.

Each step makes a layer with a key. A published layer is reused. A missing one is built in a sandbox by the caller's ``run_step`` and
published when the step succeeds. Of two concurrent builds of a layer the second waits for the first. This module must not run a program of
the template itself (invariant I1), and it touches a layer's tree only before the first foreign program has run in it. A step has up to two
phases, so that no configuration of the host stays in a layer::

    kind       1                                              2
    bootstrap  unpack on the host                             second stage and script, offline, no host layer
    apt        download, online, with the host layer          install and script, offline, no host layer
    upgrade    the same, of all updates
    run        script, online with the host layer, or offline without it
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloister.errors import BuildError, DeadlineError, TemplateNotFoundError
from cloister.linux.files import open_private
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.protocol.agent import DEFAULT_PATH
from cloister.runtime.spec import StepSpec
from cloister.template.bootstrap import Bootstrap, default_mirror, layer_sources, unpack
from cloister.template.layers import LayerStore, Workspace, layer_key
from cloister.template.stock import StockDefinition, StockStep, stock_id

if TYPE_CHECKING:
    from cloister.template.hostlayer import HostLayer

__all__ = [
    "STEP_ENVS",
    "RunStep",
    "StockBuildContext",
    "StockBuildProgress",
    "build_layers",
    "build_stock_template",
    "layer_keys",
    "run_logged",
    "stock_record",
]

_TAIL_LINES = 30
_FETCHING = {"apt": "apt-fetch.sh", "upgrade": "apt-upgrade-fetch.sh"}
"""Kinds of steps that download first, and the script that does."""
STEP_ENVS = {
    "PATH": DEFAULT_PATH,
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""Variables of every step."""
_PROLOGUE = "set -euo pipefail\numask 022\ncd /\n"


class RunStep(Protocol):
    """Runs one step in a sandbox: blocking, output to ``log`` as it comes, returns the exit code."""

    def __call__(self, spec: StepSpec, log: Callable[[bytes], None], /) -> int:
        """Run it."""
        ...


class StockBuildProgress(Protocol):
    """Receives the progress of a build."""

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        """A step begins. Its layer may exist already."""
        ...

    def step_waiting(self) -> None:
        """Another process builds this layer; the build waits for its end."""
        ...

    def step_output(self, line: str) -> None:
        """One line of the step's output."""
        ...

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        """The step's layer exists."""
        ...

    def step_failed(self) -> None:
        """The step failed or was interrupted."""
        ...


@dataclass(frozen=True, kw_only=True)
class StockBuildContext:
    """The parts that every build uses."""

    store: LayerStore
    run_step: RunStep
    progress: StockBuildProgress
    host_layer: HostLayer | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    limits: Limits = field(default_factory=lambda: Limits(cpu_count=64.0, mem_mib=6144, pids=4096, output_mib=1024))


def layer_keys(definition: StockDefinition, parent_layers: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of all layers of ``definition``, lowest first, the parent's included."""
    keys = list(parent_layers)
    for step in definition.steps:
        keys.append(layer_key(keys[-1] if keys else None, _document(step)))
    return tuple(keys)


def build_stock_template(
    definition: StockDefinition,
    below: tuple[str, ...],
    context: StockBuildContext,
    edition: str = "",
    finish: Callable[[Template], object] | None = None,
) -> Template:
    """Build the missing layers of ``definition`` on top of its parent's layers, ``below``, and record the template. Blocking.

    ``edition`` is that of the definition (:func:`cloister.template.stock.with_updates`). ``finish`` is called before the template is
    recorded, that is, before the first sandbox of it.

    Raises:
        BuildError: a step failed. Has the last lines of its log and names the log file.
    """
    context.store.sweep()
    template = stock_record(definition, build_layers(definition, below, context), edition)
    with contextlib.suppress(TemplateNotFoundError):
        earlier = context.store.template(definition.name)
        if earlier.build_id == template.build_id and earlier.created_at:
            template = dataclasses.replace(template, created_at=earlier.created_at)
    if finish is not None:
        finish(template)
    context.store.write_template(template)
    return template


def build_layers(definition: StockDefinition, below: tuple[str, ...], context: StockBuildContext) -> tuple[str, ...]:
    """Build the missing layers of ``definition`` on top of ``below``. Returns all keys, lowest first."""
    keys = layer_keys(definition, below)
    own = keys[len(below) :]
    for index, (step, key) in enumerate(zip(definition.steps, own, strict=True)):
        context.progress.step_started(definition.name, index + 1, len(own), step)
        try:
            _ensure_layer(definition.name, step, key, keys[: len(below) + index], context)
        except BaseException:
            context.progress.step_failed()
            raise
    return keys


def stock_record(definition: StockDefinition, keys: tuple[str, ...], edition: str) -> Template:
    """The record of a template with these layers, made now."""
    return Template(
        template_id=stock_id(definition.name),
        name=definition.name,
        build_id=str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(keys))),
        layers=keys,
        envs=definition.envs,
        user=definition.user,
        workdir=definition.workdir,
        kernel_user=definition.kernel_user,
        languages=definition.languages,
        limits=definition.limits,
        aliases=definition.aliases,
        created_at=time.time(),
        authors=(),
        edition=edition,
    )


def _ensure_layer(template: str, step: StockStep, key: str, below: tuple[str, ...], context: StockBuildContext) -> None:
    store, started = context.store, time.monotonic()
    cached = store.has(key)
    if not cached:
        with store.lock(key, on_wait=context.progress.step_waiting):
            cached = store.has(key)
            if not cached:
                _build_layer(template, step, key, below, context)
    context.progress.step_done(time.monotonic() - started, store.layer(key).size_bytes, cached=cached)


def _build_layer(template: str, step: StockStep, key: str, below: tuple[str, ...], context: StockBuildContext) -> None:
    started = time.monotonic()
    with context.store.workspace(key) as workspace:
        run_logged(template, step, key, below, workspace, context)
        context.store.publish(workspace, key, f"{template}/{step.name}", below[-1] if below else None, time.monotonic() - started)


def run_logged(template: str, step: StockStep, key: str, below: tuple[str, ...], workspace: Workspace, context: StockBuildContext) -> None:
    """Run all phases of ``step`` over the layers ``below`` in ``workspace``. Its output goes to a file in the store's ``logs``.

    Raises:
        BuildError: it failed or took too long.
    """
    log_path = context.store.root / "logs" / f"{template}-{step.name}-{key[:8]}.log"
    with os.fdopen(open_private(log_path, empty=True), "wb") as file:
        log = _StepLog(file.write, context.progress.step_output)
        try:
            _run_phases(step, below, workspace, context, log)
        except (BuildError, DeadlineError) as error:
            raise BuildError(
                f"step '{step.name}' of '{template}' failed: {error.message}", step=step.name, log_tail=log.tail(),
                hint=error.hint or f"the whole log: {log_path}",
            ) from error  # fmt: skip


def _run_phases(step: StockStep, below: tuple[str, ...], workspace: Workspace, context: StockBuildContext, log: _StepLog) -> None:
    build = workspace.upper / ".build"
    if step.kind == "bootstrap":
        unpack(workspace.upper, step, context.bootstrap, log)
    _write_inputs(build, step, context)
    layers = tuple(context.store.rootfs(key) for key in below) or (workspace.empty,)
    for name, online in _phases(step):
        host = context.host_layer if online else None
        spec = StepSpec(
            layers=layers,
            host_layer=host.path if host else None,
            upper=workspace.upper,
            work=workspace.work,
            argv=("/bin/bash", f"/.build/{name}"),
            envs={**STEP_ENVS, **(host.envs if host else {})},
            egress=PUBLIC_EGRESS if online else NO_EGRESS,
            limits=context.limits,
            timeout_s=step.timeout_s,
        )
        code = context.run_step(spec, log)
        if code != 0:
            raise BuildError(f"{name} ended with exit code {code}", step=step.name)


def _phases(step: StockStep) -> list[tuple[str, bool]]:
    """The scripts to run, and whether each is online. The last one cleans up."""
    if step.kind in _FETCHING:
        return [("fetch.sh", True), ("main.sh", False)]
    return [("main.sh", step.online)]


def _document(step: StockStep) -> dict[str, object]:
    return {**step.key_document(), "scripts": _scripts(step)}


def _scripts(step: StockStep) -> dict[str, str]:
    """The step's complete scripts by name. The layer's key is made of them."""
    main = {"bootstrap": ["second-stage.sh"], "apt": ["apt-install.sh"], "upgrade": ["apt-upgrade.sh"], "run": []}[step.kind]
    parts = [_stock_script(name) for name in main] + [step.script, _stock_script("finish.sh")]
    scripts = {"main.sh": _PROLOGUE + "\n".join(parts) + "exit 0\n"}
    if step.kind in _FETCHING:
        scripts["fetch.sh"] = _PROLOGUE + _stock_script(_FETCHING[step.kind])
    return scripts


def _stock_script(name: str) -> str:
    return resources.files("cloister.template").joinpath("stock", "steps", name).read_text()


def _write_inputs(build: Path, step: StockStep, context: StockBuildContext) -> None:
    """Write the step's scripts and files into the tree. No foreign program has run in it yet."""
    files = {**step.files, **_scripts(step), "packages": "\n".join(step.packages) + "\n"}
    if step.kind == "bootstrap":
        mirror = default_mirror(context.bootstrap.debootstrap) or context.bootstrap.mirror or ""
        files["debian.sources"] = layer_sources(step.suite, mirror)
    for name, text in files.items():
        path = build / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in (build, *build.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


class _StepLog:
    """Receives a step's output: writes it to the file, shows its lines, and keeps the last ones."""

    def __init__(self, write: Callable[[bytes], object], show: Callable[[str], None]) -> None:
        self._write = write
        self._show = show
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)

    def __call__(self, chunk: bytes) -> None:
        self._write(chunk)
        *lines, self._partial = (self._partial + chunk).replace(b"\r", b"\n").split(b"\n")
        self._partial = self._partial[-4096:]
        for raw in lines:
            if line := raw.decode(errors="replace").rstrip():
                if not line.startswith(("pmstatus:", "dlstatus:")):
                    self._lines.append(line)
                self._show(line)

    def tail(self) -> str:
        """The last lines."""
        rest = self._partial.decode(errors="replace").rstrip()
        return "\n".join([*self._lines, rest] if rest else self._lines)
