"""``cloister bundle``: writes built templates to one file, and takes them into the store of another host, without a network.

Exit codes: 0 done; 1 the bundle is refused, and nothing was imported.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from cloister.cli.checkpoint import install_criu
from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError, NotFoundError, PermissionDeniedError, TemplateNotFoundError
from cloister.model.template import ON_DEMAND
from cloister.node.runtimes import has_built_runsc, install_runsc, installed_runsc, unpacked_criu
from cloister.processes.preflight import refuse_weak_code
from cloister.template.agenttree import agent_tree
from cloister.template.bundle.exporting import export_bundle
from cloister.template.bundle.importing import import_bundle
from cloister.template.bundle.reading import Bundle, open_bundle
from cloister.template.layers import LayerStore
from cloister.template.stock import STOCK_NAMES

__all__ = ["add_options", "run"]

_PROGRAMS = ("gvisor", "criu")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    exporting = actions.add_parser("export", help="write built templates, and what they need, to a new file")
    exporting.add_argument(
        "--templates", metavar="NAME,...", help=f"default: those of {', '.join((*STOCK_NAMES, *ON_DEMAND))} that are built"
    )
    exporting.add_argument("--programs", metavar="NAME,...", default="", help=f"programs to add: {', '.join(_PROGRAMS)} [none]")
    exporting.add_argument("--wheels", metavar="DIR", type=Path, help="a directory of wheels to add, for scripts/quickstart --bundle")
    importing = actions.add_parser("import", help="check a bundle, and take its templates into the store")
    importing.add_argument("--expect-digest", "--sha256", metavar="sha256:HEX", help="refuse any other file")
    importing.add_argument("--trust", action="store_true", help="import it without a digest, if it has no programs")
    showing = actions.add_parser("show", help="check a bundle, and print its digest and its parts")
    for action in (exporting, importing, showing):
        action.add_argument("file", metavar="FILE", type=Path)
        add_arguments(action, "store_dir", *(("data_dir",) if action is importing else ()))
        action.usage = "%(prog)s FILE [OPTION]..."


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    if args.action == "show":
        with args.file.open("rb") as file:
            _show(open_bundle(file))
        return 0
    if os.geteuid() != 0:
        raise PermissionDeniedError("templates belong to root", hint="run it with sudo")
    refuse_weak_code(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an import that gets SIGTERM leaves nothing
    try:
        return _export(settings, args) if args.action == "export" else _import(settings, args)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or args.file}: {error.strerror}") from error


def _export(settings: Settings, args: argparse.Namespace) -> int:
    store = LayerStore(settings.store_dir)
    names = args.templates.split(",") if args.templates else [one.name for one in store.templates()]
    programs = _programs(settings, [word for word in args.programs.split(",") if word])
    wheels = [] if args.wheels is None else sorted(args.wheels.glob("*.whl"))
    if args.wheels is not None and not wheels:
        raise NotFoundError(f"there are no wheels in {args.wheels}", hint="make some: scripts/package wheels DIR")
    if args.file.exists():
        raise InvalidRequestError(f"{args.file} exists", hint="remove it, or give another name")
    digest = export_bundle(args.file, store, names, programs, wheels)
    print(f"{args.file}: {args.file.stat().st_size >> 20} MiB, sha256:{digest}")
    return 0


def _programs(settings: Settings, words: list[str]) -> dict[str, Path]:
    found = {}
    for word in words:
        if word == "gvisor":
            if not has_built_runsc(settings):
                raise NotFoundError("runsc is not installed", hint="cloister runtime install gvisor")
            found["runsc"] = installed_runsc(settings.store_dir)
        elif word == "criu":
            found["criu"] = unpacked_criu(settings)
            if not found["criu"].is_dir():
                raise NotFoundError("CRIU is not installed", hint="cloister checkpoint install")
        else:
            raise InvalidRequestError(f"there is no program {word!r}", hint=f"programs are: {', '.join(_PROGRAMS)}")
    return found


def _import(settings: Settings, args: argparse.Namespace) -> int:
    def install(name: str, program: Path, work: Path) -> None:
        if name == "criu":
            install_criu(settings, program)
        else:
            program.chmod(0o755)
            install_runsc(settings, program, work, print)

    store = LayerStore(settings.store_dir)
    with args.file.open("rb") as file, recorded(settings, "bundle.import") as change:
        bundle = open_bundle(file, args.expect_digest)
        change.object_id = f"sha256:{bundle.digest}"
        done = import_bundle(bundle, store, install, is_expected=args.expect_digest is not None, is_trusted=args.trust)
    for name in done.templates:
        print(f"{name}: imported")
    for name in done.programs:
        print(f"{name}: installed")
    print(f"{done.new_trees} trees were new to {settings.store_dir}")
    try:
        agent_tree(store.root, store.template("base"))
    except TemplateNotFoundError:
        print(f"note: the bundle is of Cloister {bundle.manifest.version}, whose agent this version does not use")
        print("      build that, which needs no network: cloister template build base")
    return 0


def _show(bundle: Bundle) -> None:
    manifest = bundle.manifest
    print(f"sha256:{bundle.digest}, made by Cloister {manifest.version} for {manifest.machine}")
    print(f"templates: {', '.join(one.name for one in manifest.templates)}")
    for part in manifest.parts:
        title = f"  {part.layer.name}" if part.layer is not None else ""
        print(f"{part.size_bytes / 2**20:9.1f} MiB  {part.name[:48]}{title}")
