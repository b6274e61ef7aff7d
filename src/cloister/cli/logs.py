"""``cloister logs ID``: prints the log of a sandbox: its creation and end, limits that it met, refused connections, commands.

With ``--follow`` it goes on until the sandbox has ended. Ended sandboxes have logs too, as long as the server keeps them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import datetime
from typing import Any

from cloister.cli.endpoint import add_server_options, find_server, run_client
from cloister.client.api import ApiClient, connect
from cloister.config.client_env import ClientEnv
from cloister.model.text import printable

__all__ = ["add_options", "run"]

_LEVELS = ("debug", "info", "warn", "error")
_LOOK_S = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("sandbox_id", metavar="ID", help="the sandbox, from `cloister ps`")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing new entries until the sandbox has ended")
    parser.add_argument("-n", "--tail", type=int, metavar="N", help="begin with the last N entries (default: all)")
    parser.add_argument("--level", choices=_LEVELS, default="debug", help="only entries of this level and worse (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print each entry as a line of JSON")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the log."""
    return run_client(_run(find_server(args), args))


async def _run(server: ClientEnv, args: argparse.Namespace) -> int:
    async with connect(server) as api:
        cursor, entries = await _read(api, args, 0)
        _print(entries if args.tail is None else entries[max(0, len(entries) - max(0, args.tail)) :], args)
        while args.follow and await api.is_there(args.sandbox_id):
            await asyncio.sleep(_LOOK_S)
            cursor, entries = await _read(api, args, cursor)
            _print(entries, args)
        if args.follow:
            _print((await _read(api, args, cursor))[1], args)
    return 0


async def _read(api: ApiClient, args: argparse.Namespace, cursor: int) -> tuple[int, list[dict[str, Any]]]:
    """Every entry from ``cursor`` (milliseconds) on, and the cursor of what follows."""
    found: list[dict[str, Any]] = []
    while page := await api.logs(args.sandbox_id, cursor, args.level):
        found += page
        cursor = round(datetime.fromisoformat(page[-1]["timestamp"]).timestamp() * 1000) + 1
    return cursor, found


def _print(entries: list[dict[str, Any]], args: argparse.Namespace) -> None:
    for entry in entries:
        line = f"{entry['timestamp']} {entry['level']:<5} {entry['fields'].get('logger', ''):<5} {entry['message']}"
        print(json.dumps(entry) if args.json else printable(line), flush=args.follow)
