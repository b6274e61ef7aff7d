"""What builds are made by on this node: the parts of ``template`` and ``node`` that a build needs, put together. Owns no policy."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cloister.config.settings import Settings
from cloister.model.build import BuildRequest
from cloister.model.template import Template
from cloister.node.build_records import BuildRecords
from cloister.node.builds import BuildBounds, Builds, BuildWork
from cloister.node.catalog import Catalog, check_capacity
from cloister.node.host import NodeHost
from cloister.node.trial import NodeTrial
from cloister.node.warming import Warming
from cloister.runtime.namespace.step import StepRunner
from cloister.template.bootstrap import Bootstrap
from cloister.template.builder import BuildContext
from cloister.template.building.copier import BuildPlace
from cloister.template.building.recipe import BuildParts, run_build
from cloister.template.building.workbench import NodeWorkbench
from cloister.template.images.library import Images
from cloister.template.images.reference import ImageMap
from cloister.template.images.registries import Registries
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BuildLog, Cancellation
from cloister.template.layers import LayerStore
from cloister.template.progress import PlainProgress

__all__ = ["BuildHost", "make_builds"]


@dataclass(frozen=True, kw_only=True)
class BuildHost:
    """What builds share with the rest of the node."""

    host: NodeHost
    store: LayerStore
    catalog: Catalog
    bootstrap: Bootstrap
    """For Debian releases and tools that are made when the first build needs them."""
    warming: Warming


def make_builds(settings: Settings, shared: BuildHost) -> Builds:
    """The queue of builds of this node, and what it works with."""
    directory = settings.data_dir / "node" / "builds"

    def check_room() -> None:
        check_capacity(shared.store.root, settings.disk_reserve_mib)
        check_capacity(directory, settings.disk_reserve_mib)

    def drop(build_id: str) -> None:
        shared.store.drop_build(build_id)
        shared.warming.cool(build_id)

    parts = _parts(settings, shared, check_room)
    limits, timeout_s = shared.catalog.limits, settings.ready_timeout_s
    trial = NodeTrial(parts.workbench, limits, timeout_s, tried=shared.store.builds, ahead=shared.warming.ahead)
    work = BuildWork(
        check_capacity=check_room,
        recipe=partial(_recipe, parts),
        hold=shared.store.hold,
        trial=trial,
        keep=shared.store.write_build,
        drop=drop,
        prepare=shared.warming.prepare,
    )
    return Builds(BuildRecords(directory), work, BuildBounds(running=settings.max_builds, timeout_s=settings.build_timeout_s))


def _parts(settings: Settings, shared: BuildHost, check_room: Callable[[], None]) -> BuildParts:
    host, store = shared.host, shared.store
    agent_tree, reserve_mib = shared.catalog.agent_tree, settings.disk_reserve_mib
    place = BuildPlace(runtime=host.runtime, store=store, agent_tree=agent_tree, disk_reserve_mib=reserve_mib)
    workbench = NodeWorkbench(place, host.host_layer, settings.data_dir / "node" / "boxes", check_room)
    context = BuildContext(
        store=store,
        run_step=StepRunner(host.runtime).run_step,
        progress=PlainProgress(io.StringIO()),  # that of each build is its log
        host_layer=host.host_layer,
        bootstrap=shared.bootstrap,
    )
    registries = Registries(settings.host_registries, settings.insecure_registries)
    return BuildParts(
        store=store,
        workbench=workbench,
        images=Images(store, workbench, ImageTools(context), ImageMap(settings.image_map), registries),
        find_parent=shared.catalog.find,
        uploads=settings.data_dir / "api" / "uploads",
        limits=settings.default_limits(),
    )


def _recipe(parts: BuildParts, request: BuildRequest, log: BuildLog, cancellation: Cancellation) -> Template:
    return run_build(request, parts, log, cancellation)
