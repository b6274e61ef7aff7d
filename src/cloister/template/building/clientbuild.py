"""Builds a client's template from its request: the base, and the steps one after another.

::

    check ── base: image or template ── for each step: cached? ── lock ── sandbox ── layer ── record ── template

Blocks; runs in the build's own thread. A finished step is recorded at once, so an interrupted build goes on after it. Layers that the
build uses are held as soon as they are chosen. This module reads no file of a layer and runs no program on the host (I1, I2).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cloister.errors import BuildError, CloisterError, InternalError, StoreError
from cloister.model.build import BASE_STEP, BuildRequest, BuildStep
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.runtime.spec import MAX_LAYERS
from cloister.template.building.stepcheck import check_request
from cloister.template.building.stepexecutor import StepExecutor, StepPosition
from cloister.template.building.steplog import title
from cloister.template.building.steprecords import StepRecord, StepRecords, StepState, step_keys
from cloister.template.interfaces import BuildLog, BuildSandboxes, Cancellation, ImageLibrary
from cloister.template.layers import LayerStore

__all__ = ["ClientBuildParts", "build_client_template"]

_MAKES_LAYER = ("COPY", "RUN")


@dataclass(frozen=True, kw_only=True)
class ClientBuildParts:
    """The parts that build the templates of all requests."""

    store: LayerStore
    build_sandboxes: BuildSandboxes
    images: ImageLibrary
    find_parent: Callable[[str], Template]
    """The template of a build id or stock name. Raises: TemplateNotFoundError."""
    uploads: Path
    """The api process's directory of uploaded archives."""
    limits: Limits = field(default_factory=Limits)
    """Limits of a template whose request names none."""


def build_client_template(request: BuildRequest, parts: ClientBuildParts, log: BuildLog, cancellation: Cancellation) -> Template:
    """Build the missing layers of the template. Its languages are those of the base until a trial has run.

    Raises:
        BuildError: a step failed or is invalid; ``step`` names it.
        InternalError: this host failed.
    """
    check_request(request)
    limits = _limits(request, parts.limits)
    with contextlib.ExitStack() as held:
        with _as_fault_of(BASE_STEP):
            base = _base(request, parts, limits, log, cancellation)
            _check_depth(request, base.layers)
            held.enter_context(parts.store.hold(base.layers))
        executor = StepExecutor(parts.build_sandboxes, parts.uploads, limits, log, cancellation)
        record = _StepSequence(request, parts, executor, base.layers, held).run(_first_state(base), log, cancellation)
        return replace(
            base,
            layers=base.layers + record.layers,
            envs=record.state.envs,
            user=record.state.user,
            workdir=record.state.workdir or record.state.home or f"/home/{record.state.user}",
            created_at=time.time(),
        )


class _StepSequence:
    """The steps of one build, in order."""

    def __init__(
        self, request: BuildRequest, parts: ClientBuildParts, executor: StepExecutor, base: tuple[str, ...], held: contextlib.ExitStack
    ) -> None:
        self._request = request
        self._store = parts.store
        self._records = StepRecords(parts.store.root)
        self._executor = executor
        self._base = base
        self._held = held

    def run(self, state: StepState, log: BuildLog, cancellation: Cancellation) -> StepRecord:
        """Run the steps. Returns the record of the last one."""
        keys = step_keys(self._request, self._base, state)
        record = StepRecord(layers=(), state=state)
        done = 0
        for index in range(len(keys) - 1, -1, -1):
            if (found := self._cached(keys[index])) is not None:
                record, done = found, index + 1
                break
        total = len(keys)
        for index, step in enumerate(self._request.steps):
            position = StepPosition(number=index + 1, total=total, key=keys[index], name=f"{self._request.name}/{index + 1}")
            label = f"[{index + 1}/{total}] {title(step)}"
            if index < done:
                log.add("info", f"CACHED {label}", position.step)
                continue
            with _as_fault_of(position.step):
                cancellation.check()
                record = self._ensure(step, position, record, _StepLog(log, label, position.step), cancellation)
        return record

    def _ensure(self, step: BuildStep, position: StepPosition, before: StepRecord, say: _StepLog, cancellation: Cancellation) -> StepRecord:
        """The record of the step, made by this build or by another one while this one waited."""
        waits = "waiting for another build of this step"
        with self._store.lock(position.key, on_wait=lambda: say(f"{position.label} {waits}"), check=cancellation.check):
            if (found := self._cached(position.key)) is not None:
                say.title("CACHED ")
                return found
            say.title()
            began = time.monotonic()
            layer, state = self._made_before(step, position.key, before.state)
            if layer is None:
                layer, state = self._executor.execute(step, position, self._base + before.layers, before.state)
            if layer is not None:
                self._held.enter_context(self._store.hold([layer]))
            record = StepRecord(layers=before.layers + ((layer,) if layer else ()), state=state)
            self._records.write(position.key, record)
            say(f"{position.label} done in {time.monotonic() - began:.1f} s", "debug")
            return record

    def _made_before(self, step: BuildStep, key: str, state: StepState) -> tuple[str | None, StepState]:
        """The step's layer, if a server died after publishing it and before recording it. Such a step changes no state."""
        return (key if step.kind in _MAKES_LAYER and self._store.has(key) else None), state

    def _cached(self, key: str) -> StepRecord | None:
        """The step's record, if all its layers exist. They are held from now on."""
        record = self._records.read(key)
        if record is None:
            return None
        try:
            with contextlib.ExitStack() as taken:
                taken.enter_context(self._store.hold(record.layers))
                self._held.push(taken.pop_all())
        except StoreError:  # a layer was collected
            return None
        return record


@dataclass(frozen=True)
class _StepLog:
    """Adds lines about one step to the log."""

    log: BuildLog
    label: str
    step: str

    def __call__(self, message: str, level: str = "info") -> None:
        self.log.add(level, message, self.step)

    def title(self, prefix: str = "") -> None:
        """Add the step's own line."""
        self(prefix + self.label)


def _base(request: BuildRequest, parts: ClientBuildParts, limits: Limits, log: BuildLog, cancellation: Cancellation) -> Template:
    """The template before the first step, made of the image or of the parent template."""
    if request.image is None:
        origin = parts.find_parent(request.parent or "")
        if origin.has_memory:  # its files are on a disk beside its memory, and in none of its layers
            hint = "take a snapshot of files (memory=false), and build on that"
            raise BuildError(f"{origin.name} was captured with its memory, so it can be no base", step=BASE_STEP, hint=hint)
        log.add("info", f"[base] FROM template {origin.name}", BASE_STEP)
    else:
        log.add("info", f"[base] FROM {request.image.reference}", BASE_STEP)
        image = parts.images.base(request.image, request.team_id, limits, log, cancellation, force=request.force)
        origin = Template(
            template_id="", name="", build_id="", layers=image.layers, envs=image.envs, user=image.user, workdir=image.workdir,
            languages=image.languages, authors=(),
        )  # fmt: skip
    return replace(
        origin,
        template_id=request.template_id,
        name=request.name,
        build_id=request.build_id,
        limits=limits,
        aliases=(),
        authors=origin.authors_with(request.team_id),
        given_envs={},
        given_by="",
        start_cmd=request.start_cmd or origin.start_cmd,
        ready_cmd=request.ready_cmd or origin.ready_cmd,
    )


def _first_state(base: Template) -> StepState:
    """The state before the first step. A work directory equal to the user's home stays unset, so that it follows the user."""
    home = "/root" if base.user == "root" else f"/home/{base.user}"
    is_home = base.workdir == home
    return StepState(envs=base.envs, user=base.user, workdir="" if is_home else base.workdir, home=home if is_home else "")


def _limits(request: BuildRequest, otherwise: Limits) -> Limits:
    return replace(
        otherwise,
        cpu_count=otherwise.cpu_count if request.cpu_count is None else request.cpu_count,
        mem_mib=otherwise.mem_mib if request.mem_mib is None else request.mem_mib,
        disk_mib=otherwise.disk_mib if request.disk_mib is None else request.disk_mib,
    )


def _check_depth(request: BuildRequest, base: tuple[str, ...]) -> None:
    """Raises: BuildError: too many layers. Checked before the first layer is made."""
    count = len(base)
    for number, step in enumerate(request.steps, 1):
        count += step.kind in _MAKES_LAYER
        if count > MAX_LAYERS:
            hint = "put several commands into one RUN"
            raise BuildError(f"a template has at most {MAX_LAYERS} layers, {len(base)} of them the base's", step=str(number), hint=hint)


@contextlib.contextmanager
def _as_fault_of(step: str) -> Iterator[None]:
    """Turn every fault that is not this host's into a BuildError of the step."""
    try:
        yield
    except InternalError:
        raise
    except BuildError as error:
        error.step = error.step or step
        raise
    except CloisterError as error:
        raise BuildError(error.message, step=step, hint=error.hint) from error
