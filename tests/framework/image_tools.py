"""The trees that images are fetched with, made once in the host's own store, for nodes of tests whose internet is a pretended one."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cloister.config.load import load
from cloister.network.dns_relay import host_nameservers
from cloister.node.host import build_host
from cloister.template.agenttree import interpreter_layers
from cloister.template.bootstrap import Bootstrap, host_mirror
from cloister.template.layers import LayerStore
from cloister.template.progress import PlainProgress
from cloister.template.stock import read_definition
from cloister.template.stockbuilder import StockBuildContext, build_layers, layer_keys

__all__ = ["ensure_tree"]


def ensure_tree(name: str) -> tuple[Path, ...]:
    """The layers' directories of ``images`` or another tree of that kind, built when they are missing. Needs root and Debian's archive."""
    settings = load(None, os.environ)
    store = LayerStore(settings.store_dir)
    definition = read_definition(name)
    below = interpreter_layers(store.template("base")) if definition.parent else ()
    keys = layer_keys(definition, below)
    if not all(store.has(key) for key in keys):
        with ExitStack() as stack:
            directory = stack.enter_context(store.builder_directory())
            host = stack.enter_context(build_host(replace(settings, data_dir=directory), host_nameservers()))
            shown = stack.enter_context(os.fdopen(os.dup(2), "w"))
            host_layer = host.host_layer if below else replace(host.host_layer, path=host.host_layer.over(f"{name}/system"))
            context = StockBuildContext(
                store=store,
                run_step=host.run_step,
                progress=PlainProgress(shown),
                host_layer=host_layer,
                bootstrap=Bootstrap(mirror=host_mirror(Path("/etc"), definition.steps[0].suite)),
            )
            build_layers(definition, below, context)
    return tuple(store.root / "layers" / key for key in keys)
