"""``cloister top``: the processor, memory and disk that each sandbox uses, again and again; ``--once`` prints it once.

The numbers are the newest samples of the server, which measures every ``metrics_interval_s``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from cloister.cli.endpoint import add_server_options, run_client
from cloister.cli.fleet import Fleet, Listed, Usage, add_filters, open_fleet, wanted
from cloister.cli.table import shown_size, table

__all__ = ["add_options", "run"]

_HEADS = ("ID", "TEMPLATE", ">CPU %", ">MEMORY", ">LIMIT", ">MEM %", ">DISK", ">DISK %")
_KEYS = {"cpu": lambda one: -one.cpu_pct, "memory": lambda one: -one.mem_bytes, "disk": lambda one: -one.disk_bytes}
_NONE = Usage(cpu_pct=0, mem_bytes=0, mem_limit_bytes=0, disk_bytes=0, disk_limit_bytes=0)
_CLEAR = "\x1b[H\x1b[J"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--once", action="store_true", help="print the table once; so it is also if the output is no terminal")
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two tables (default: %(default)s)")
    parser.add_argument("--sort", choices=sorted(_KEYS), default="cpu", help="what the first ones use most of (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, once")
    add_filters(parser)
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table until a signal comes."""
    return run_client(_run(args))


async def _run(args: argparse.Namespace) -> int:
    async with open_fleet(args) as fleet:
        while True:
            rows = await _measured(fleet, args)
            if args.json:
                print(json.dumps([{**asdict(one), "usage": asdict(usage)} for one, usage in rows], indent=1))
                return 0
            lines = _told(rows, with_team=fleet.is_of_all_teams)
            if args.once or not sys.stdout.isatty():
                print("\n".join(lines))
                return 0
            print(_CLEAR + "\n".join(lines), flush=True)
            await asyncio.sleep(max(0.2, args.interval))


async def _measured(fleet: Fleet, args: argparse.Namespace) -> list[tuple[Listed, Usage]]:
    choose = wanted(args)
    found = [one for one in await fleet.listed() if choose(one) and one.state == "running"]
    usage = await fleet.usage([one.sandbox_id for one in found]) if found else {}
    rows = [(one, usage.get(one.sandbox_id, _NONE)) for one in found]
    return sorted(rows, key=lambda row: _KEYS[args.sort](row[1]))


def _told(rows: list[tuple[Listed, Usage]], *, with_team: bool) -> list[str]:
    total = f"{len(rows)} running, {sum(use.cpu_pct for _, use in rows):.0f} % cpu, {shown_size(sum(use.mem_bytes for _, use in rows))}"
    heads = (*_HEADS, *(["TEAM"] if with_team else []))
    cells = [(*_row(one, use), one.team)[: len(heads)] for one, use in rows]
    return [total, *table(heads, cells)]


def _row(one: Listed, use: Usage) -> tuple[str, ...]:
    memory = (shown_size(use.mem_bytes), shown_size(use.mem_limit_bytes), _share(use.mem_bytes, use.mem_limit_bytes))
    disk = (shown_size(use.disk_bytes), _share(use.disk_bytes, use.disk_limit_bytes))
    return (one.sandbox_id, one.template, f"{use.cpu_pct:.1f}", *memory, *disk)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}" if whole else "-"
