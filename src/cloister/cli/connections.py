"""``cloister connections ID``: prints the record of a sandbox's connections: which passed, which were refused, and by which rule.

With ``--follow`` it goes on until the sandbox has ended. The record is a part of the log, and is kept as long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import datetime
from typing import Any

from cloister.cli.endpoint import add_server_options, find_server, run_client
from cloister.cli.table import shown_size
from cloister.client.api import ApiClient, connect
from cloister.config.client_env import ClientEnv
from cloister.model.text import printable

__all__ = ["add_options", "run"]

_LOOK_S = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("sandbox_id", metavar="ID", help="the sandbox, from `cloister ps`")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing new records until the sandbox has ended")
    parser.add_argument("--refused", action="store_true", help="only refused connections")
    parser.add_argument("--json", action="store_true", help="print each record as a line of JSON")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the record."""
    return run_client(_run(find_server(args), args))


async def _run(server: ClientEnv, args: argparse.Namespace) -> int:
    async with connect(server) as api:
        since = await _print_from(api, args, 0)
        while args.follow and await api.is_there(args.sandbox_id):
            await asyncio.sleep(_LOOK_S)
            since = await _print_from(api, args, since)
        if args.follow:
            await _print_from(api, args, since)
    return 0


async def _print_from(api: ApiClient, args: argparse.Namespace, since: int) -> int:
    """Print the records from ``since`` (milliseconds) on. Returns when later ones begin."""
    for record in await api.connections(args.sandbox_id, since, "refused" if args.refused else None):
        print(json.dumps(record) if args.json else printable(_line(record)), flush=args.follow)
        since = round(datetime.fromisoformat(record["recordedAt"]).timestamp() * 1000) + 1
    return since


def _line(record: dict[str, Any]) -> str:
    port = "" if record["port"] is None else f":{record['port']}"
    mark = "~" if record.get("nameFrom") == "lookup" else ""
    place = f"{mark}{record['name'] or record['address'] or '(many)'}{port}"
    address = f" ({record['address']})" if record["name"] and record["address"] else ""
    traffic = f" sent {shown_size(record['sentBytes'])}, received {shown_size(record['receivedBytes'])}"
    count = f" {record['count']} times" if record["count"] > 1 else ""
    shown = f"{record['timestamp']} {record['verdict']:<7} {record['protocol'] or '':<4} {place}{address}: {record['rule']}"
    return shown + (traffic if record["verdict"] == "allowed" else "") + count
