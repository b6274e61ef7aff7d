"""A node that makes build sandboxes, on a store of its own that shows the stock layers: for tests of builds without a server."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.config.load import load
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.network.dns_relay import host_nameservers
from cloister.node.catalog import Catalog
from cloister.node.host import NodeHost, build_host, open_host
from cloister.template.agenttree import agent_tree
from cloister.template.building.buildsandboxes import NodeBuildSandboxes
from cloister.template.building.copier import BuildResources
from cloister.template.layers import LayerStore

__all__ = ["LIMITS", "BuildNode", "NoCancellation", "build_node", "node_at"]

LIMITS = Limits(cpu_count=2.0, mem_mib=512, disk_mib=512, inodes=50_000)


class NoCancellation:
    """A build that is never cancelled."""

    def check(self) -> None:
        """See :class:`Cancellation`."""

    def calling(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """See :class:`Cancellation`."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class BuildNode:
    """The parts that tests use."""

    host: NodeHost
    store: LayerStore
    base: Template
    place: BuildResources
    build_sandboxes: NodeBuildSandboxes
    catalog: Catalog


@contextlib.contextmanager
def build_node(*, zygotes: bool = True, further_layers: tuple[Path, ...] = (), **settings_of_test: Any) -> Iterator[BuildNode]:
    """The node and its store, which has ``further_layers`` too; nothing is left of either."""
    stock = LayerStore(load(None, os.environ).store_dir)
    base = stock.template("base")
    with tempfile.TemporaryDirectory(prefix="cloister-test-", dir=stock.root) as directory:
        store = LayerStore(Path(directory) / "store")
        for layer in {stock.root / "layers" / key for key in base.layers} | set(further_layers):
            (store.root / "layers" / layer.name).symlink_to(layer)
        tree = agent_tree(stock.root, base)
        (store.root / "agent" / tree.name).symlink_to(tree)
        store.write_template(base)
        settings = replace(load(None, os.environ), data_dir=Path(directory) / "data", zygotes=zygotes, **settings_of_test)
        with build_host(settings, settings.dns_upstreams or host_nameservers()) as host:
            yield _parts(host, store, settings.data_dir)


def node_at(data_dir: Path) -> BuildNode:
    """A node on the stock store, which the caller closes. It finds the files that an earlier node left in ``data_dir``."""
    settings = replace(load(None, os.environ), data_dir=data_dir)
    return _parts(open_host(settings, host_nameservers()), LayerStore(settings.store_dir), data_dir)


def _parts(host: NodeHost, store: LayerStore, data_dir: Path) -> BuildNode:
    catalog = Catalog(store, host.host_layer, Limits())
    place = BuildResources(runtime=host.runtime, space=host.resources.space, store=store, agent_tree=catalog.agent_tree, disk_reserve_mib=1)
    build_sandboxes = NodeBuildSandboxes(place, host.host_layer, data_dir / "node" / "boxes", lambda: None)
    return BuildNode(host, store, store.template("base"), place, build_sandboxes, catalog)
