"""Snapshots: the files of a live sandbox become a template, by one more layer.

The sandbox is frozen while a copier, which is another sandbox, copies its writes (I2). It always goes on afterwards: also when the copy
fails, when it is killed meanwhile, or when this process dies, because the next supervisor thaws every group but those of paused ones.
Runs in: supervisor, in a worker thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import structlog

from cloister.errors import InternalError, InvalidRequestError, SandboxNotFoundError, TemplateNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.model.template import Template
from cloister.node.memory_captures import MemoryCaptures
from cloister.node.origin import Origin
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.spec import MAX_LAYERS
from cloister.template.building.copier import BuildResources, Copier, NewLayer
from cloister.template.layers import CAPTURE, layer_key

__all__ = ["SnapshotName", "Snapshots"]

_log = structlog.get_logger("cloister.node")


@dataclass(frozen=True, kw_only=True)
class SnapshotName:
    """The ids and the name that a snapshot gets, whether it is for the copies of a fork, and whether it has the processes too."""

    build_id: str
    template_id: str
    name: str
    for_copies: bool = False
    memory: bool = False


class Snapshots:
    """Takes snapshots into the store of ``place``. Thread-safe; of one sandbox one is taken at a time."""

    def __init__(
        self,
        place: BuildResources,
        find: Callable[[str], Template],
        origin_of: Callable[[str], Origin | None] = lambda _: None,
        captures: MemoryCaptures | None = None,
    ) -> None:
        """``find`` gives the template of a build id or name, or raises TemplateNotFoundError. ``captures`` takes those with memory.

        ``origin_of`` gives the origin of a sandbox by its id; None: it is not known. It may raise RuntimeFailedError.
        """
        self._store = place.store
        self._copier = Copier(place)
        self._find = find
        self._origin_of = origin_of
        self._captures = captures

    def of(self, record: SandboxRecord, sandbox: RuntimeSandbox, name: SnapshotName) -> Template:
        """The snapshot of a sandbox of this node; the one of that build id, if it has been taken already.

        Raises: InvalidRequestError (its runtime cannot), TemplateNotFoundError (its template is not known any more),
        SandboxNotFoundError (it ended meanwhile), and as :meth:`take`.
        """
        with contextlib.suppress(TemplateNotFoundError):
            return self._store.build(name.build_id)
        sandbox.capabilities.require(record.runtime, "freeze", "checkpoint" if name.memory else "open_disk")
        known = self._origin_of(record.sandbox_id)
        origin = self._template_of(record) if known is None else known.template
        like = dataclasses.replace(
            origin,
            template_id=name.template_id,
            name=name.name,
            build_id=name.build_id,
            authors=origin.authors_with(record.team_id),
            for_copies=name.for_copies,
            has_memory=name.memory,
            given_envs={} if known is None else known.envs,
            given_by="" if known is None else record.team_id,
        )
        try:
            return self._take_memory(record, sandbox, like) if name.memory else self.take(sandbox, like)
        except (InternalError, OSError) as error:
            if sandbox.has_ended():
                raise SandboxNotFoundError(f"sandbox {record.sandbox_id} ended while its snapshot was taken") from error
            raise

    def _template_of(self, record: SandboxRecord) -> Template:
        """The template of a sandbox whose origin is not known; for a stock one that was built anew since, the new build."""
        try:
            return self._find(record.build_id or record.template)
        except TemplateNotFoundError:
            return self._find(record.template)

    def take(self, sandbox: RuntimeSandbox, like: Template) -> Template:
        """The template of the files that ``sandbox`` has now, recorded under its build id.

        ``like`` gives the name and everything else but the layers, which are those of the sandbox.

        Raises: InvalidRequestError (it has the most layers that are possible), NoCapacityError (the store is full), DeadlineError
        (the sandbox could not be frozen), IsolationError, RuntimeFailedError, StoreError, OSError (it has ended meanwhile).
        """
        began = time.monotonic()
        layers = self._layers_of(sandbox.trees)
        if len(layers) >= MAX_LAYERS:
            message = f"the sandbox stands on {len(layers)} layers; a template has at most {MAX_LAYERS}"
            raise InvalidRequestError(message, hint="each snapshot or fork adds one: copy its files to a sandbox of a template instead")
        new = NewLayer(
            key=layer_key(layers[-1] if layers else None, {"snapshot": like.build_id}),
            name=f"{like.name}{CAPTURE}",
            parent=layers[-1] if layers else None,
        )
        times: list[float] = []
        with self._store.hold(layers):
            with contextlib.ExitStack() as still:

                def stand_still() -> None:
                    times.append(time.monotonic())
                    still.enter_context(sandbox.frozen())

                def go_on() -> None:
                    still.close()
                    times.append(time.monotonic())

                layer = self._copier.publish(sandbox, new, on_ready=stand_still, on_copied=go_on)
            if layer is not None:
                layers = (*layers, layer.key)
            template = dataclasses.replace(like, layers=layers, limits=sandbox.limits, aliases=(), created_at=time.time())
            self._store.write_build(template)
        seconds, size = round(time.monotonic() - began, 3), layer.size_bytes if layer else 0
        _log.info("snapshot.taken", build_id=like.build_id, seconds=seconds, frozen_s=round(times[1] - times[0], 3), bytes=size)
        return template

    def _take_memory(self, record: SandboxRecord, sandbox: RuntimeSandbox, like: Template) -> Template:
        """The same with memory and processes. The disk is kept as it is, so no layer is made. Raises: as :meth:`MemoryCaptures.take`."""
        assert self._captures is not None
        layers = self._layers_of(sandbox.trees)
        with self._store.hold(layers):
            self._captures.take(record, sandbox, like.build_id, is_durable=not like.for_copies)  # no copy of a fork outlives the host
            template = dataclasses.replace(like, layers=layers, limits=sandbox.limits, aliases=(), created_at=time.time())
            self._store.write_build(template)
        return template

    def _layers_of(self, trees: tuple[Path, ...]) -> tuple[str, ...]:
        """Keys of the template's layers: those below the host layer, which is in no store."""
        found = takewhile(lambda key: key is not None, map(self._store.key_of, trees))
        return tuple(key for key in found if key is not None)
