"""``cloister ps``: lists live and paused sandboxes; as root on the server's host those of all teams, and with ``--all`` ended ones too."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from cloister.cli.endpoint import add_server_options, run_client
from cloister.cli.fleet import Listed, Usage, add_filters, open_fleet, wanted
from cloister.cli.table import shown_size, shown_span, table

__all__ = ["add_options", "run"]

_HEADS = ("ID", "TEMPLATE", "STATE", "RUNTIME", ">AGE", ">ENDS IN", ">MEMORY")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("-a", "--all", action="store_true", help="also list ended ones and why they ended; for root on the server's host")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("--json", action="store_true", help="print JSON, with metadata")
    add_filters(parser)
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    return run_client(_run(args))


async def _run(args: argparse.Namespace) -> int:
    choose = wanted(args)
    async with open_fleet(args) as fleet:
        found = [one for one in await fleet.listed(with_ended=args.all) if choose(one)]
        living = [one.sandbox_id for one in found if one.state == "running"]
        usage = {} if args.quiet or not living else await fleet.usage(living)
    if args.json:
        print(json.dumps([_plain(one, usage.get(one.sandbox_id)) for one in found], indent=1))
    elif args.quiet:
        print("".join(f"{one.sandbox_id}\n" for one in found), end="")
    else:
        heads = (*_HEADS, *(["TEAM"] if fleet.is_of_all_teams else []), *(["END"] if args.all else []))
        rows = [_row(one, usage.get(one.sandbox_id), time.time())[: len(heads)] for one in found]
        print("\n".join(table(heads, rows)))
    return 0


def _plain(one: Listed, usage: Usage | None) -> dict[str, Any]:
    return {**asdict(one), "usage": None if usage is None else asdict(usage)}


def _row(one: Listed, usage: Usage | None, now: float) -> tuple[str, ...]:
    left = "-" if one.end_at is None or one.end_at < now else shown_span(one.end_at - now)
    memory = "-" if usage is None else shown_size(usage.mem_bytes)
    return (one.sandbox_id, one.template, one.state, one.runtime or "-", shown_span(now - one.started_at), left, memory, one.team, one.end)
