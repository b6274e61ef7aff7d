"""``cloister checkpoint``: gets a CRIU that can save the memory of sandboxes, beside the system's own, and says which one is used."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.node.runtimes import criu_of, unpacked_criu
from cloister.template.debianpackages import unpack_packages
from cloister.template.layers import LayerStore

__all__ = ["add_options", "install_criu", "run"]

_SUITE = "sid"
"""The release of Debian with a CRIU that works on today's kernels."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="unpack CRIU from Debian's archive, for this server only")
    install.add_argument("--mirror", metavar="URL", help="Debian's archive; default: the host's")
    install.add_argument("--suite", default=_SUITE, help=f"the release of Debian to take it from; default: {_SUITE}")
    show = actions.add_parser("show", help="print the CRIU that the server would use")
    show.add_argument("--json", action="store_true", help="print JSON")
    for action in (install, show):
        add_arguments(action, "store_dir", "checkpoint")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    if args.action == "install":
        _install(settings, args.mirror, args.suite)
    path, version = criu_of(settings)
    if args.action == "show" and args.json:
        print(json.dumps({"path": str(path), "version": str(version), "setting": settings.checkpoint}))
        return 0
    print(f"CRIU {version}: {path}")
    if settings.checkpoint is None:
        print("The setting `checkpoint` is off; with `--checkpoint auto` the server tries this CRIU when it starts.")
    return 0


def _install(settings: Settings, mirror: str | None, suite: str) -> None:
    LayerStore(settings.store_dir)
    target = unpacked_criu(settings)
    with tempfile.TemporaryDirectory(prefix="criu-", dir=target.parent) as name:
        made = Path(name) / "tree"
        made.mkdir(mode=0o755)
        unpack_packages(("criu",), suite, made, mirror, print)
        install_criu(settings, made)


def install_criu(settings: Settings, made: Path) -> None:
    """Put the unpacked CRIU ``made``, a directory on the store's file system, in its place."""
    target = unpacked_criu(settings)
    if target.exists():  # a server that runs keeps the files that it has open
        target.rename(made.with_name("old"))
    made.rename(target)
