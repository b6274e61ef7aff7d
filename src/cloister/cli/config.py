"""``cloister config show|check``: the settings in effect with where each comes from, and whether the server could start with them.

Reads and changes nothing. Exit codes: 0 the settings are right; 2 they are not, and each fault is a line with its remedy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from cloister.cli.table import table
from cloister.config.load import add_arguments, load, load_with_sources
from cloister.config.setting import plain
from cloister.config.settings import SETTINGS, Settings
from cloister.errors import InvalidRequestError, SettingsError

__all__ = ["add_options", "run"]

_DEFAULT = "default"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print each setting, its value, and where it comes from")
    show.add_argument("--name", action="append", default=[], metavar="SETTING", help="only this one; may be given several times")
    show.add_argument("--changed", action="store_true", help="only those that do not have their default")
    show.add_argument("--json", action="store_true", help="print JSON")
    check = actions.add_parser("check", help="exit with 0 if `cloister serve` could start with the settings, else with 2 and all faults")
    check.add_argument("--json", action="store_true", help="print JSON: whether they are right, and the faults")
    for action in (show, check):
        add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return _show(args) if args.action == "show" else _check(args)


def _show(args: argparse.Namespace) -> int:
    unknown = set(args.name) - {setting.name for setting in SETTINGS}
    if unknown:
        raise InvalidRequestError(f"there is no setting {', '.join(sorted(unknown))}", hint="docs/configuration.md lists all")
    settings, sources = load_with_sources(args, os.environ)
    rows = [_row(settings, name, sources.get(name)) for name in (setting.name for setting in SETTINGS) if name in (args.name or [name])]
    rows = [row for row in rows if not args.changed or row["source"] != _DEFAULT]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(table(("SETTING", "VALUE", "SOURCE"), [(row["name"], _shown(row["value"]), row["source"]) for row in rows])))
    return 0


def _row(settings: Settings, name: str, source: str | None) -> dict[str, Any]:
    is_secret = name in {setting.name for setting in SETTINGS if setting.is_secret}
    value = getattr(settings, name)
    return {"name": name, "value": "(secret)" if is_secret and value is not None else plain(value), "source": source or _DEFAULT}


def _shown(value: Any) -> str:
    if value in (None, []):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def _check(args: argparse.Namespace) -> int:
    from cloister.processes.preflight import find_host_faults  # noqa: PLC0415 - the other action needs none of the server

    is_root = os.geteuid() == 0
    faults: list[str] = []
    try:
        load(args, os.environ, *((find_host_faults,) if is_root else ()))
    except SettingsError as error:
        faults += error.faults
    if args.json:
        print(json.dumps({"valid": not faults, "faults": faults, "host_checked": is_root}, indent=1))
    elif faults:
        print("\n".join(f"cloister: {fault}" for fault in faults), file=sys.stderr)
    else:
        print("the settings are right" + ("" if is_root else "; run this as root to check them against this host too"))
    return 2 if faults else 0
