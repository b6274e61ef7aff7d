"""The interface through which the queue runs a build. ``node_stages.py`` implements it; tests have a fake."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from cloister.model.build import BuildRequest
from cloister.model.template import Template
from cloister.template.interfaces import BuildLog, Cancellation

__all__ = ["BuildStages"]


class BuildStages(Protocol):
    """The stages, in the order in which a build's thread calls them. All of them block."""

    def check_capacity(self) -> None:
        """Raises: NoCapacityError: the host has no room for a build."""
        ...

    def make_layers(self, request: BuildRequest, log: BuildLog, cancellation: Cancellation) -> Template:
        """Make the missing layers. The template does not have the results of the trial yet.

        Raises: BuildError with its step, NoCapacityError.
        """
        ...

    def hold_layers(self, layers: tuple[str, ...]) -> AbstractContextManager[None]:
        """Keep the garbage collector from removing the layers while the context is open. Raises: StoreError: a layer is gone."""
        ...

    def try_out(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """See :meth:`cloister.template.interfaces.Trial.run`."""
        ...

    def record(self, template: Template) -> None:
        """Record the template in the store. From then on sandboxes can be created from it."""
        ...

    def prepare(self, template: Template, cancellation: Cancellation) -> None:
        """Make ahead what speeds up the first creations. Returns early when the build is cancelled."""
        ...

    def discard(self, build_id: str) -> None:
        """Remove the record of a build and the sandboxes made ahead for it. An unknown id is no error. Called at any time."""
        ...
