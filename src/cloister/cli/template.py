"""``cloister template``: builds, refreshes and pulls the stock templates in the store, lists and removes templates and unused layers.

A build wires a temporary node (instance number, network, resolver, runtime, host layer). Every step runs in a sandbox of that node, and
the node leaves nothing on the host. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TextIO

from cloister.cli.recording import recorded
from cloister.cli.template_refresh import refresh, told_freshness
from cloister.cli.template_removal import remove_templates
from cloister.cli.template_transfer import TRANSFERS, add_transfer_options, run_transfer
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import BuildError, PermissionDeniedError, TemplateNotFoundError
from cloister.model.template import ON_DEMAND, STARTER, Template
from cloister.network.dns_relay import host_nameservers
from cloister.node.host import build_host
from cloister.node.trees_in_use import trees_in_use
from cloister.processes.preflight import refuse_weak_code
from cloister.template.absence import told_absence
from cloister.template.agenttree import agent_template, agent_tree, ensure_agent_tree
from cloister.template.bootstrap import Bootstrap, host_bootstrap
from cloister.template.freshness import read_freshness
from cloister.template.garbage import GarbageCollector
from cloister.template.layers import LayerStore
from cloister.template.progress import make_progress
from cloister.template.stock import STOCK_NAMES, definition_of, load_stock, shared_layers, with_parents, with_updates
from cloister.template.stockbuilder import StockBuildContext, build_stock_template, layer_keys

__all__ = ["add_options", "run"]

_BEING_BUILT = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    names = [*STOCK_NAMES, *ON_DEMAND, "all"]
    build = actions.add_parser("build", help="build stock templates; existing layers are reused")
    build.add_argument(
        "name",
        nargs="?",
        default="all",
        choices=names,
        help=f"template to build (default: all, which is {', '.join(STOCK_NAMES)}; others only by name)",
    )
    build.add_argument("--mirror", metavar="URL", help="Debian archive for the first layer (default: the host's, else debootstrap's)")
    packages = "the packages of the first layer, in place of its mirror: a file of `python3 -m cloister.template.prefetch FILE.tgz`"
    build.add_argument("--packages", metavar="FILE", type=Path, help=packages)
    add_arguments(build)
    build.usage = "%(prog)s [OPTION]... [NAME]"
    removing = actions.add_parser("rm", help="delete templates of the key's team, or, as root, stock templates that nothing uses")
    removing.add_argument("names", metavar="NAME", nargs="+", help="name or id, from `cloister template list --all`")
    add_arguments(removing, "data_dir", "store_dir", "run_dir")
    refreshing = actions.add_parser("refresh", help="ask the distribution for updates, and build stale stock templates again")
    refreshing.add_argument("name", nargs="?", default="all", choices=names, help="template (default: all that are built)")
    refreshing.add_argument("--check", action="store_true", help="only ask; exit with 1 if a template is stale")
    check = actions.add_parser("check", help="exit with 0 if stock templates are built and up to date, 3 if a build makes them now")
    check.add_argument("name", nargs="?", default="all", choices=names, help="template (default: all)")
    add_arguments(check)
    add_transfer_options(actions)
    collecting = actions.add_parser("gc", help="remove unused layers and other leftovers of builds")
    collecting.add_argument("--all", action="store_true", help="also remove recently used layers, which later builds could reuse")
    collecting.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    add_arguments(collecting)
    listing = actions.add_parser("list", help="list the templates in the store")
    listing.add_argument("--all", action="store_true", help="also list templates that clients built, newest first")
    for action in (collecting, listing, refreshing):
        action.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--layers", action="store_true", help="show the layers of each template")
    for action in (listing, refreshing):
        add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    if args.action == "rm":
        return remove_templates(args)
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("templates belong to root", hint="run it with sudo")
    refuse_weak_code(os.environ)
    if args.action == "list":
        return _print_json(settings, everything=args.all) if args.json else _list(settings, everything=args.all, show_layers=args.layers)
    if args.action == "gc":
        with contextlib.nullcontext() if args.dry_run else recorded(settings, "template.gc"):
            return _collect(settings, everything=args.all, is_rehearsal=args.dry_run, as_json=args.json)
    if args.action == "check":
        return _check(LayerStore(settings.store_dir), args.name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a build that gets SIGTERM ends its sandbox first
    if args.action in TRANSFERS:
        return run_transfer(settings, args)
    return _build(settings, args) if args.action == "build" else _refresh(settings, args)


def _check(store: LayerStore, name: str) -> int:
    if _find_built(store, _wanted(name)) is not None:
        return 0
    return _BEING_BUILT if store.wanted_by_builds().issuperset(_wanted(name)) else 1


def _build(settings: Settings, args: argparse.Namespace) -> int:
    store = LayerStore(settings.store_dir)
    wanted = _wanted(args.name)
    bootstrap = host_bootstrap(args.mirror, args.packages and args.packages.absolute())
    if (found := _find_built(store, wanted)) is not None:
        for template in found:
            print(f"{template.name}: built ({_size_mib(store, template)} MiB in {len(template.layers)} layers)")
        return 0
    with (
        _told_failures(),
        recorded(settings, "template.build", args.name),
        _context(settings, store, bootstrap, sys.stdout, wanted) as context,
    ):
        _build_all(wanted, context)
    return 0


def _refresh(settings: Settings, args: argparse.Namespace) -> int:
    store = LayerStore(settings.store_dir)
    with _told_failures(), _context(settings, store, host_bootstrap(), sys.stderr if args.json else sys.stdout) as context:
        return refresh(settings, context, args.name, only_check=args.check, as_json=args.json)


@contextmanager
def _told_failures() -> Iterator[None]:
    """Prints the end of the log of a step that fails in the block."""
    try:
        yield
    except BuildError as error:
        print(f"{error.log_tail}\n" if error.log_tail else "", end="", file=sys.stderr)
        raise


def _build_all(wanted: tuple[str, ...], context: StockBuildContext) -> None:
    built: dict[str, Template] = {}
    for name in wanted:
        edition = _edition(context.store, name)
        finish = partial(_ensure_agent, name, context)
        built[name] = build_stock_template(with_updates(load_stock(name), edition), _below(name, built), context, edition, finish)


def _ensure_agent(name: str, context: StockBuildContext, template: Template) -> None:
    """Build the agent's tree if sandboxes will run the one that is made on ``template``. The first of them may come with its record."""
    if name == "base":
        ensure_agent_tree(template, context)
    elif name == STARTER:
        known = {one.name for one in context.store.records()}
        ensure_agent_tree(context.store.template("base") if "base" in known else template, context)


def _edition(store: LayerStore, name: str) -> str:
    """That of the template as it is recorded, so that a build does not undo a refresh."""
    return next((one.edition for one in store.records() if one.name == name), "")


def _wanted(name: str) -> tuple[str, ...]:
    """The templates of a word of the command line, parents first."""
    return STOCK_NAMES if name == "all" else with_parents(name)


def _below(name: str, found: Mapping[str, Template]) -> tuple[str, ...]:
    """The layers that ``name`` stands on; its parent is among ``found``."""
    parent = load_stock(name).parent
    return shared_layers(definition_of(found[parent]), found[parent].layers) if parent else ()


def _find_built(store: LayerStore, wanted: tuple[str, ...]) -> list[Template] | None:
    """The wanted templates when all of them, and the agent's tree, are there in their present definition; else None."""
    found: dict[str, Template] = {}
    try:
        for name in wanted:
            found[name] = store.template(name)
            if found[name].layers != layer_keys(definition_of(found[name]), _below(name, found)):
                return None
        agent_tree(store.root, agent_template(store))
    except TemplateNotFoundError:
        return None
    return list(found.values())


@contextmanager
def _context(
    settings: Settings, store: LayerStore, bootstrap: Bootstrap, output: TextIO, wanted: tuple[str, ...] = ()
) -> Iterator[StockBuildContext]:
    """The parts of a build; its node is removed at the end."""
    upstreams = settings.dns_upstreams or host_nameservers()
    with store.builder_directory(wanted) as directory, build_host(replace(settings, data_dir=directory), upstreams) as host:
        for note in host.host_layer.notes:
            print(f"note: {note}", file=sys.stderr)
        yield StockBuildContext(
            store=store,
            run_step=host.run_step,
            progress=make_progress(output),
            host_layer=host.host_layer,
            bootstrap=bootstrap,
        )


def _list(settings: Settings, *, everything: bool, show_layers: bool) -> int:
    store = LayerStore(settings.store_dir)
    below: set[str] = set()
    known = {template.name for template in store.templates()}
    freshness = read_freshness(store.root, store.templates())
    for template in store.templates():
        languages = ", ".join(template.languages) or "no languages"
        one = freshness.get(template.name)
        stale = f"  {told_freshness(one, time.time())}" if one is not None and one.is_stale else ""
        print(f"{template.name:24}{_size_mib(store, template):6} MiB  {len(template.layers)} layers  {languages}{stale}")
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
    for name in (name for name in (*STOCK_NAMES, *ON_DEMAND) if name not in known):
        print(f"{name:24}{told_absence(store, name) or f'not built: cloister template build {name}'}")
    return 0


def _print_json(settings: Settings, *, everything: bool) -> int:
    """Every built template with its layers, stock ones first; those whose layers are gone have them in ``missing``."""
    store = LayerStore(settings.store_dir)
    freshness = read_freshness(store.root, store.records())
    built = [*store.records(), *(sorted(store.builds(), key=lambda one: -one.created_at) if everything else ())]
    rows = [
        {
            "name": one.name,
            "template_id": one.template_id,
            "build_id": one.build_id,
            "languages": one.languages,
            "created_at": one.created_at,
            "size_bytes": sum(store.layer(key).size_bytes for key in one.layers if store.has(key)),
            "layers": one.layers,
            "missing": [key for key in one.layers if not store.has(key)],
            "freshness": asdict(freshness[one.name]) if one.name in freshness and one.build_id == freshness[one.name].build_id else None,
        }
        for one in built
    ]
    print(json.dumps(rows, indent=1))
    return 0


def _show_layers(store: LayerStore, keys: Iterable[str]) -> None:
    for layer in (store.layer(key) for key in keys if store.has(key)):
        print(f"    {layer.key[:12]}  {layer.size_bytes / 2**20:6.0f} MiB  {layer.build_s:6.1f} s  {layer.name}")


def _collect(settings: Settings, *, everything: bool, is_rehearsal: bool, as_json: bool) -> int:
    store = LayerStore(settings.store_dir)
    directories = [settings.data_dir / "hostlayer", *(store.root / "builders").glob("*/hostlayer")]
    collector = GarbageCollector(store, partial(trees_in_use, settings.run_dir, settings.store_dir), directories)
    removed = collector.collect(0 if everything else settings.layer_retention_s, is_rehearsal=is_rehearsal)
    if as_json:
        print(json.dumps({"removed": not is_rehearsal, "items": [asdict(one) for one in removed]}, indent=1))
        return 0
    for one in removed:
        print(f"{one.kind:11} {one.name[:40]:40} {one.size_bytes / 2**20:9.1f} MiB")
    total_mib = sum(one.size_bytes for one in removed) / 2**20
    print(f"{'would remove' if is_rehearsal else 'removed'} {len(removed)}: {total_mib:.1f} MiB")
    return 0


def _size_mib(store: LayerStore, template: Template) -> int:
    return sum(store.layer(key).size_bytes for key in template.layers) >> 20
