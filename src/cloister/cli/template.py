"""``cloister template``: build the stock templates into the store, list what is there, and remove what nothing uses.

Wires a build: a node of its own for the time of it (instance number, network, resolver, runtime, host layer). Every
step runs in that node's sandboxes; nothing is left of the node afterwards. Needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import BuildError, PermissionDeniedError, TemplateNotFoundError
from cloister.model.template import Template
from cloister.network.dns_relay import host_nameservers
from cloister.node.host import build_host
from cloister.node.livetrees import live_trees
from cloister.runtime.namespace.step import StepRunner
from cloister.template.agenttree import agent_tree, ensure_agent_tree
from cloister.template.bootstrap import Bootstrap, host_mirror
from cloister.template.builder import BuildContext, build_template, layer_keys
from cloister.template.garbage import Collector
from cloister.template.layers import LayerStore
from cloister.template.progress import make_progress
from cloister.template.stock import BASE_SUITE, STOCK_NAMES, handed_on, load_stock

__all__ = ["add_parser", "host_bootstrap", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("template", help="build and list templates")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="build stock templates; layers that are there are taken as they are")
    build.add_argument("name", nargs="?", default="all", choices=[*STOCK_NAMES, "all"], help="what to build (default: all)")
    build.add_argument("--mirror", metavar="URL", help="Debian archive for the first layer (default: the host's, else debootstrap's)")
    add_arguments(build)
    check = actions.add_parser("check", help="whether the stock templates are built in their present definition (exit code)")
    add_arguments(check)
    collecting = actions.add_parser("gc", help="remove layers that no template, build or sandbox uses, and other leftovers of builds")
    collecting.add_argument("--all", action="store_true", help="also what was used lately: it spares later builds their steps")
    collecting.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    add_arguments(collecting)
    listing = actions.add_parser("list", help="the templates in the store and their layers")
    listing.add_argument("--all", action="store_true", help="also what clients have built, newest first, by build id")
    listing.add_argument("--layers", action="store_true", help="show every layer")
    add_arguments(listing)


def run(args: argparse.Namespace) -> int:
    """Build or list."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("templates belong to root", hint="run it with sudo")
    if args.action == "list":
        return _list(settings, everything=args.all, show_layers=args.layers)
    if args.action == "gc":
        return _collect(settings, everything=args.all, is_rehearsal=args.dry_run)
    if args.action == "check":
        return 0 if _find_built(LayerStore(settings.store_dir), STOCK_NAMES) is not None else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a build that is told to stop ends its sandbox first
    return _build(settings, args.name, args.mirror)


def _build(settings: Settings, name: str, mirror: str | None) -> int:
    store = LayerStore(settings.store_dir)
    wanted = STOCK_NAMES if name == "all" else _with_parents(name)
    if (found := _find_built(store, wanted)) is not None:
        for template in found:
            print(f"{template.name}: built ({_size_mib(store, template)} MiB in {len(template.layers)} layers)")
        return 0
    try:
        with _context(settings, store, mirror) as context:
            _build_all(wanted, context)
    except BuildError as error:
        print(f"{error.log_tail}\n" if error.log_tail else "", end="", file=sys.stderr)
        raise
    return 0


def _build_all(wanted: tuple[str, ...], context: BuildContext) -> None:
    built: dict[str, Template] = {}
    for name in wanted:
        built[name] = build_template(load_stock(name), _below(name, built), context)
        if name == "base":
            ensure_agent_tree(built[name], context)


def _with_parents(name: str) -> tuple[str, ...]:
    parent = load_stock(name).parent
    return (*(_with_parents(parent) if parent else ()), name)


def _below(name: str, found: Mapping[str, Template]) -> tuple[str, ...]:
    """The layers that ``name`` stands on; its parent is among ``found``."""
    parent = load_stock(name).parent
    return handed_on(load_stock(parent), found[parent].layers) if parent else ()


def _find_built(store: LayerStore, wanted: tuple[str, ...]) -> list[Template] | None:
    """The wanted templates when all of them, and the agent's tree, are there in their present definition; else None."""
    found: dict[str, Template] = {}
    try:
        for name in wanted:
            found[name] = store.template(name)
            if found[name].layers != layer_keys(load_stock(name), _below(name, found)):
                return None
        agent_tree(store.root, found["base"])
    except TemplateNotFoundError:
        return None
    return list(found.values())


@contextmanager
def _context(settings: Settings, store: LayerStore, mirror: str | None) -> Iterator[BuildContext]:
    """All that a build needs; its node is gone at the end."""
    upstreams = settings.dns_upstreams or host_nameservers()
    with store.builder_directory() as directory, build_host(replace(settings, data_dir=directory), upstreams) as host:
        for note in host.host_layer.notes:
            print(f"note: {note}", file=sys.stderr)
        yield BuildContext(
            store=store,
            run_step=StepRunner(host.runtime).run_step,
            progress=make_progress(sys.stdout),
            host_layer=host.host_layer,
            bootstrap=host_bootstrap(mirror),
        )


def host_bootstrap(mirror: str | None = None) -> Bootstrap:
    """Where Debian comes from, by this host's own configuration and environment."""
    envs = {key: value for key, value in os.environ.items() if key.lower() in ("http_proxy", "https_proxy", "no_proxy")}
    return Bootstrap(mirror=mirror or host_mirror(Path("/etc"), BASE_SUITE), envs=envs)


def _list(settings: Settings, *, everything: bool, show_layers: bool) -> int:
    store = LayerStore(settings.store_dir)
    below: set[str] = set()
    for template in store.templates():
        languages = ", ".join(template.languages) or "no languages"
        print(f"{template.name:24}{_size_mib(store, template):6} MiB  {len(template.layers)} layers  {languages}")
        _show_layers(store, template.layers if show_layers else ())
        below.update(template.layers)
    for template in sorted(store.builds(), key=lambda one: -one.created_at) if everything else ():
        own = [key for key in template.layers if key not in below]
        missing = sum(not store.has(key) for key in own)
        size_mib = sum(store.layer(key).size_bytes for key in own if store.has(key)) >> 20
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(template.created_at))
        rest = f"  lacks {missing} layers: build it again" if missing else ""
        print(f"{template.name:24}{size_mib:6} MiB  {len(own)} layers of its own  {made}  {template.template_id} {template.build_id}{rest}")
        _show_layers(store, own if show_layers else ())
    return 0


def _show_layers(store: LayerStore, keys: Iterable[str]) -> None:
    for layer in (store.layer(key) for key in keys if store.has(key)):
        print(f"    {layer.key[:12]}  {layer.size_bytes / 2**20:6.0f} MiB  {layer.build_s:6.1f} s  {layer.name}")


def _collect(settings: Settings, *, everything: bool, is_rehearsal: bool) -> int:
    store = LayerStore(settings.store_dir)
    directories = [settings.data_dir / "hostlayer", *(store.root / "builders").glob("*/hostlayer")]
    collector = Collector(store, partial(live_trees, settings.run_dir), directories)
    removed = collector.collect(0 if everything else settings.layer_retention_s, is_rehearsal=is_rehearsal)
    for one in removed:
        print(f"{one.kind:11} {one.name[:40]:40} {one.size_bytes / 2**20:9.1f} MiB")
    total_mib = sum(one.size_bytes for one in removed) / 2**20
    print(f"{'would remove' if is_rehearsal else 'removed'} {len(removed)}: {total_mib:.1f} MiB")
    return 0


def _size_mib(store: LayerStore, template: Template) -> int:
    return sum(store.layer(key).size_bytes for key in template.layers) >> 20
