"""Snapshots: the files of a live sandbox become a template, by one more layer.

Runs in: supervisor, in a worker thread. The sandbox stands still while a copier, which is another sandbox, copies what it wrote (I2); it
always goes on, also when the copy fails, when it is killed meanwhile, or when this process dies (the next one thaws what it adopts).
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

from cloister.errors import InternalError, InvalidRequestError, LimitError, SandboxNotFoundError, TemplateNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.model.template import Template
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.runtime.spec import MAX_LAYERS
from cloister.template.building.copier import BuildPlace, Copier, NewLayer
from cloister.template.layers import layer_key

__all__ = ["SnapshotName", "Snapshots"]

_log = structlog.get_logger("cloister.node")


@dataclass(frozen=True, kw_only=True)
class SnapshotName:
    """What a snapshot is to be called."""

    build_id: str
    template_id: str
    name: str


class Snapshots:
    """Takes snapshots into the store of ``place``. Thread-safe; of one sandbox one is taken at a time."""

    def __init__(self, place: BuildPlace, find: Callable[[str], Template]) -> None:
        """``find`` gives the template of a build id or name, or raises TemplateNotFoundError."""
        self._store = place.store
        self._copier = Copier(place)
        self._find = find

    def of(self, record: SandboxRecord, sandbox: RuntimeSandbox, name: SnapshotName) -> Template:
        """The snapshot of a sandbox of this node; the one of that build id, if it has been taken already.

        Raises: InvalidRequestError (its runtime cannot), TemplateNotFoundError (what its template says is known no more),
        SandboxNotFoundError (it ended meanwhile), and as :meth:`take`.
        """
        with contextlib.suppress(TemplateNotFoundError):
            return self._store.build(name.build_id)
        if not isinstance(sandbox, NamespaceSandbox):
            raise InvalidRequestError(f"the runtime {record.runtime!r} takes no snapshots")
        like = dataclasses.replace(self._origin(record), template_id=name.template_id, name=name.name, build_id=name.build_id)
        try:
            return self.take(sandbox, like)
        except (InternalError, OSError) as error:
            if sandbox.has_ended():
                raise SandboxNotFoundError(f"sandbox {record.sandbox_id} ended while its snapshot was taken") from error
            raise

    def _origin(self, record: SandboxRecord) -> Template:
        """The template that the sandbox was made of; a stock one that was built anew since then says the same."""
        try:
            return self._find(record.build_id or record.template)
        except TemplateNotFoundError:
            return self._find(record.template)

    def take(self, sandbox: NamespaceSandbox, like: Template) -> Template:
        """The template of the files that ``sandbox`` has now, recorded under its build id.

        ``like`` says what it is to be called and run with; its layers are those that the sandbox stands on, whatever it says of them.

        Raises: LimitError (it has as many layers as can be), NoCapacityError (the store is full), DeadlineError (it could not be frozen),
        IsolationError, RuntimeFailedError, StoreError, OSError (it has ended meanwhile).
        """
        began = time.monotonic()
        layers = self._layers_of(sandbox.trees)
        if len(layers) >= MAX_LAYERS:
            raise LimitError(f"the sandbox stands on {len(layers)} layers; a template has at most {MAX_LAYERS}")
        new = NewLayer(
            key=layer_key(layers[-1] if layers else None, {"snapshot": like.build_id}),
            name=f"{like.name}/snapshot",
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

    def _layers_of(self, trees: tuple[Path, ...]) -> tuple[str, ...]:
        """Keys of the template's layers: what comes before the host layer, which is in no store."""
        found = takewhile(lambda key: key is not None, map(self._store.key_of, trees))
        return tuple(key for key in found if key is not None)
