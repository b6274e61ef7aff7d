"""``cloister runtime``: installs what a runtime needs beside this package, and says which runtimes work on this host.

Exit codes: 0 a runtime works here; 1 none does, or one cannot be installed. The cause and the remedy are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import PermissionDeniedError
from cloister.node.runtimes import describe_runtimes, has_built_runsc, install_runsc
from cloister.processes.preflight import refuse_weak_code
from cloister.template.layers import LayerStore

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="build gVisor's runsc for this server only, or take one that is there")
    install.add_argument("name", metavar="NAME", choices=("gvisor",), help="the runtime: gvisor")
    install.add_argument("--runsc", dest="given", metavar="PATH", type=Path, help="a program to copy and use, instead of building one")
    add_arguments(install, "store_dir")
    show = actions.add_parser("show", help="print which runtimes work on this host, and why others do not")
    show.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(show, "store_dir", "runsc")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("runtimes belong to root", hint="run it with sudo")
    refuse_weak_code(os.environ)
    if args.action == "install":
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a build that gets SIGTERM is removed
        _install(settings, args.given)
    found = describe_runtimes(settings)
    if args.action == "show" and args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return int(not any(one.works for one in found))
    for one in found:
        print(f"{one.name:<10} {'works' if one.works else 'does not work'}: {one.detail}")
        if one.remedy:
            print(f"{'':<10} -> {one.remedy}")
    return int(not any(one.works for one in found))


def _install(settings: Settings, given: Path | None) -> None:
    """One at a time on a store; the second of two finds what the first has built."""
    store = LayerStore(settings.store_dir)
    with store.lock("gvisor", on_wait=lambda: print("waiting for another installation")):
        if given is None and has_built_runsc(settings):
            return
        with store.workspace("gvisor") as work:
            install_runsc(settings, given, work.work, _tell)


def _tell(line: str) -> None:
    print(line, flush=True)
