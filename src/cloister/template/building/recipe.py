"""One build of a client's template, from request to template: its base, and its steps one after another.

::

    check ── base: image or template ── for each step: cached? ── lock ── sandbox ── layer ── record ── template

Blocks, in the build's own thread. A step that is done is recorded at once, so a build that was cut off goes on after it. Layers that the
build stands on are held from when they are chosen. Nothing here looks into a layer or runs a program on the host (I1, I2).
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
from cloister.template.building.perform import Performer, Place
from cloister.template.building.stepcheck import check_request
from cloister.template.building.steplog import title
from cloister.template.building.steprecords import StepRecord, StepRecords, StepState, step_keys
from cloister.template.interfaces import BuildLog, Cancellation, ImageLibrary, Workbench
from cloister.template.layers import LayerStore

__all__ = ["BuildParts", "run_build"]

_MAKES_LAYER = ("COPY", "RUN")


@dataclass(frozen=True, kw_only=True)
class BuildParts:
    """What builds are made with."""

    store: LayerStore
    workbench: Workbench
    images: ImageLibrary
    find_parent: Callable[[str], Template]
    """The template of a build id or stock name. Raises: TemplateNotFoundError."""
    uploads: Path
    """The api process's directory of archives."""
    limits: Limits = field(default_factory=Limits)
    """Of a template whose request names none."""


def run_build(request: BuildRequest, parts: BuildParts, log: BuildLog, cancellation: Cancellation) -> Template:
    """Build what is missing of the template. What a trial finds out, its languages above all, is as in the base.

    Raises:
        BuildError: a step failed, or cannot be; ``step`` names it.
        InternalError: this host failed.
    """
    check_request(request)
    limits = _limits(request, parts.limits)
    with contextlib.ExitStack() as held:
        with _told_as(BASE_STEP):
            base = _base(request, parts, limits, log, cancellation)
            _check_depth(request, base.layers)
            held.enter_context(parts.store.hold(base.layers))
        build = _Build(request, parts, Performer(parts.workbench, parts.uploads, limits, log, cancellation), base.layers, held)
        record = build.run(_first_state(base), log, cancellation)
        return replace(
            base,
            layers=base.layers + record.layers,
            envs=record.state.envs,
            user=record.state.user,
            workdir=record.state.workdir or record.state.home or f"/home/{record.state.user}",
            created_at=time.time(),
        )


class _Build:
    """The steps of one build."""

    def __init__(
        self, request: BuildRequest, parts: BuildParts, performer: Performer, base: tuple[str, ...], held: contextlib.ExitStack
    ) -> None:
        self._request = request
        self._store = parts.store
        self._records = StepRecords(parts.store.root)
        self._performer = performer
        self._base = base
        self._held = held

    def run(self, state: StepState, log: BuildLog, cancellation: Cancellation) -> StepRecord:
        """What the last step left."""
        keys = step_keys(self._request, self._base, state)
        record = StepRecord(layers=(), state=state)
        done = 0
        for index in range(len(keys) - 1, -1, -1):
            if (found := self._cached(keys[index])) is not None:
                record, done = found, index + 1
                break
        total = len(keys)
        for index, step in enumerate(self._request.steps):
            place = Place(number=index + 1, total=total, key=keys[index], name=f"{self._request.name}/{index + 1}")
            label = f"[{index + 1}/{total}] {title(step)}"
            if index < done:
                log.add("info", f"CACHED {label}", place.step)
                continue
            with _told_as(place.step):
                cancellation.check()
                record = self._ensure(step, place, record, _Say(log, label, place.step), cancellation)
        return record

    def _ensure(self, step: BuildStep, place: Place, before: StepRecord, say: _Say, cancellation: Cancellation) -> StepRecord:
        """What the step left, by this build or, while this one waited, by another."""
        waits = "waiting for another build of this step"
        with self._store.lock(place.key, on_wait=lambda: say(f"{place.label} {waits}"), check=cancellation.check):
            if (found := self._cached(place.key)) is not None:
                say.title("CACHED ")
                return found
            say.title()
            began = time.monotonic()
            layer, state = self._made_before(step, place.key, before.state)
            if layer is None:
                layer, state = self._performer.perform(step, place, self._base + before.layers, before.state)
            if layer is not None:
                self._held.enter_context(self._store.hold([layer]))
            record = StepRecord(layers=before.layers + ((layer,) if layer else ()), state=state)
            self._records.write(place.key, record)
            say(f"{place.label} done in {time.monotonic() - began:.1f} s", "debug")
            return record

    def _made_before(self, step: BuildStep, key: str, state: StepState) -> tuple[str | None, StepState]:
        """The step's layer, when a server that died made it and had no time to record it; such a step leaves nothing else."""
        return (key if step.kind in _MAKES_LAYER and self._store.has(key) else None), state

    def _cached(self, key: str) -> StepRecord | None:
        """The step's record, when all its layers are there; they are held from now on."""
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
class _Say:
    """Lines of one step in the log."""

    log: BuildLog
    label: str
    step: str

    def __call__(self, message: str, level: str = "info") -> None:
        self.log.add(level, message, self.step)

    def title(self, prefix: str = "") -> None:
        """The step's own line."""
        self(prefix + self.label)


def _base(request: BuildRequest, parts: BuildParts, limits: Limits, log: BuildLog, cancellation: Cancellation) -> Template:
    """The template without any step: of the image, or the parent's with what it hands on."""
    if request.image is None:
        origin = parts.find_parent(request.parent or "")
        log.add("info", f"[base] FROM template {origin.name}", BASE_STEP)
    else:
        log.add("info", f"[base] FROM {request.image.reference}", BASE_STEP)
        image = parts.images.base(request.image, request.team_id, limits, log, cancellation, force=request.force)
        origin = Template(
            template_id="", name="", build_id="", layers=image.layers, envs=image.envs, user=image.user, workdir=image.workdir,
            languages=image.languages,
        )  # fmt: skip
    return replace(
        origin,
        template_id=request.template_id,
        name=request.name,
        build_id=request.build_id,
        limits=limits,
        aliases=(),
        start_cmd=request.start_cmd or origin.start_cmd,
        ready_cmd=request.ready_cmd or origin.ready_cmd,
    )


def _first_state(base: Template) -> StepState:
    """A work directory that is the user's home is that of no template: it follows the user."""
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
    """Raises: BuildError: too many layers, told before the first of them is made."""
    count = len(base)
    for number, step in enumerate(request.steps, 1):
        count += step.kind in _MAKES_LAYER
        if count > MAX_LAYERS:
            hint = "put several commands into one RUN"
            raise BuildError(f"a template has at most {MAX_LAYERS} layers, {len(base)} of them the base's", step=str(number), hint=hint)


@contextlib.contextmanager
def _told_as(step: str) -> Iterator[None]:
    """Every fault that is not this host's is the step's."""
    try:
        yield
    except InternalError:
        raise
    except BuildError as error:
        error.step = error.step or step
        raise
    except CloisterError as error:
        raise BuildError(error.message, step=step, hint=error.hint) from error
