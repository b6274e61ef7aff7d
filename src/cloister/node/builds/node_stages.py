"""The stages of a build on this node: calls the parts of ``template`` and ``node`` that do the work. Owns no policy and no state."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from cloister.config.settings import Settings
from cloister.errors import BuildError
from cloister.model.build import BuildRequest
from cloister.model.template import Template
from cloister.node.builds.preparation import BuildPreparation
from cloister.node.builds.queue import BuildQueue, QueueLimits
from cloister.node.builds.records import BuildRecords
from cloister.node.builds.stages import BuildStages
from cloister.node.builds.trial import TemplateTrial
from cloister.node.catalog import Catalog
from cloister.node.host import NodeHost
from cloister.node.limits import with_slack
from cloister.node.memory_captures import MemoryCaptures
from cloister.node.memory_reserve import HostReserve, MemoryReserve
from cloister.template.bootstrap import Bootstrap
from cloister.template.building.buildsandboxes import NodeBuildSandboxes
from cloister.template.building.clientbuild import ClientBuildParts, build_client_template
from cloister.template.building.copier import BuildResources
from cloister.template.images.library import NodeImageLibrary
from cloister.template.images.reference import ImageMap
from cloister.template.images.registries import RegistrySettings
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BuildLog, Cancellation
from cloister.template.layers import LayerStore
from cloister.template.progress import PlainProgress
from cloister.template.stockbuilder import StockBuildContext

__all__ = ["BuildDependencies", "NodeBuildStages", "make_build_queue"]


@dataclass(frozen=True, kw_only=True)
class BuildDependencies:
    """The parts of the node that builds use."""

    host: NodeHost
    store: LayerStore
    catalog: Catalog
    bootstrap: Bootstrap
    """Makes Debian releases and tools when the first build needs them."""
    preparation: BuildPreparation
    captures: MemoryCaptures


def make_build_queue(settings: Settings, shared: BuildDependencies) -> BuildQueue:
    """The queue of builds of this node."""
    limits = QueueLimits(running=settings.max_builds, timeout_s=settings.build_timeout_s, of_team=with_slack(settings.max_builds_per_team))
    return BuildQueue(BuildRecords(settings.data_dir / "node" / "builds"), NodeBuildStages(settings, shared), limits)


class NodeBuildStages(BuildStages):
    """See :class:`BuildStages`."""

    def __init__(self, settings: Settings, shared: BuildDependencies) -> None:
        self._store = shared.store
        self._runtimes = shared.host.runtimes
        self._preparation = shared.preparation
        self._captures = shared.captures
        self._watched = (shared.store.root, settings.data_dir / "node" / "builds")
        self._reserve = HostReserve(settings.disk_reserve_mib, MemoryReserve(settings.memory_reserve_mib))
        self._parts = _client_build_parts(settings, shared, self.check_capacity)
        self._trial = TemplateTrial(
            self._parts.build_sandboxes,
            shared.catalog.limits,
            settings.ready_timeout_s,
            tried=shared.store.builds,
            meanwhile=shared.preparation.during_trial,
        )

    def check_capacity(self) -> None:
        """See :class:`BuildStages`."""
        for directory in self._watched:
            self._reserve.check(directory)

    def make_layers(self, request: BuildRequest, log: BuildLog, cancellation: Cancellation) -> Template:
        """See :class:`BuildStages`."""
        if not self._runtimes.may_build:
            name = self._runtimes.builder.name
            raise BuildError(f"the operator of this server has forbidden the runtime {name!r}, in which the steps of builds run")
        return build_client_template(request, self._parts, log, cancellation)

    def hold_layers(self, layers: tuple[str, ...]) -> AbstractContextManager[None]:
        """See :class:`BuildStages`."""
        return self._store.hold(layers)

    def try_out(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """See :class:`BuildStages`."""
        return self._trial.run(template, log, cancellation, force=force)

    def record(self, template: Template) -> None:
        """See :class:`BuildStages`."""
        self._store.write_build(template)

    def prepare(self, template: Template, cancellation: Cancellation) -> None:
        """See :class:`BuildStages`."""
        self._preparation.prepare(template, cancellation)

    def discard(self, build_id: str) -> None:
        """See :class:`BuildStages`."""
        self._store.drop_build(build_id)
        self._captures.remove(build_id)
        self._preparation.discard(build_id)


def _client_build_parts(settings: Settings, shared: BuildDependencies, check_capacity: Callable[[], None]) -> ClientBuildParts:
    host, store = shared.host, shared.store
    agent_tree, reserve_mib = shared.catalog.agent_tree, settings.disk_reserve_mib
    resources = BuildResources(
        runtime=host.builder, space=host.resources.space, store=store, agent_tree=agent_tree, disk_reserve_mib=reserve_mib
    )
    build_sandboxes = NodeBuildSandboxes(resources, host.host_layer, settings.data_dir / "node" / "boxes", check_capacity)
    context = StockBuildContext(
        store=store,
        run_step=host.run_step,
        progress=PlainProgress(io.StringIO()),  # discarded: the build's own log shows the progress
        host_layer=host.host_layer,
        bootstrap=shared.bootstrap,
    )
    registries = RegistrySettings(settings.host_registries, settings.insecure_registries)
    return ClientBuildParts(
        store=store,
        build_sandboxes=build_sandboxes,
        images=NodeImageLibrary(store, build_sandboxes, ImageTools(context), ImageMap(settings.image_map), registries),
        find_parent=shared.catalog.find,
        uploads=settings.data_dir / "api" / "uploads",
        limits=settings.default_limits(),
    )
