"""``cloister nodes``: the nodes of a cluster, as the machine of an api process sees them now. Exit code 1: a node does not answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence

from cloister.cli.opened import open_store
from cloister.cli.table import shown_size, table
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import PermissionDeniedError
from cloister.model.cluster import ClusterNode
from cloister.model.sandbox import SandboxState
from cloister.processes.joining import SeenNode, look_at

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Print the nodes."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the cluster's keys belong to the server", hint="run this as root")
    rows, counts = asyncio.run(_read(settings))
    seen = asyncio.run(look_at(settings, rows))
    if args.json:
        print(json.dumps([_facts(one, counts) for one in seen], indent=1))
    elif seen:
        print(
            "\n".join(
                table(("NODE", "ADDRESS", "STATUS", "VERSION", ">SANDBOXES", ">FREE MEMORY", ""), [_row(one, counts) for one in seen])
            )
        )
    else:
        print("no node has joined; cloister cluster token makes a token for one")
    return int(any(one.info is None for one in seen))


async def _read(settings: Settings) -> tuple[Sequence[ClusterNode], Counter[str | None]]:
    async with open_store(settings) as store:
        rows = await store.list_sandboxes(ended_since=float("inf"))
        return await store.nodes.list_nodes(), Counter(row.node_id for row in rows if row.state is not SandboxState.ENDED)


def _status(one: SeenNode) -> str:
    if one.info is None:
        return "unreachable"
    return "draining" if one.row.is_draining or one.info.drain is not None else "ready"


def _facts(one: SeenNode, counts: Counter[str | None]) -> dict[str, object]:
    return {
        "node_id": one.row.node_id,
        "address": one.row.address,
        "status": _status(one),
        "version": None if one.info is None else one.info.version,
        "sandboxes": counts[one.row.node_id],
        "memory": None if one.info is None else one.info.memory,
        "room": None if one.info is None else one.info.room,
        "trouble": one.trouble,
    }


def _row(one: SeenNode, counts: Counter[str | None]) -> tuple[str, ...]:
    free = "" if one.info is None else shown_size(one.info.memory.get("available", 0))
    version = "" if one.info is None else one.info.version
    return one.row.node_id, one.row.address, _status(one), version, str(counts[one.row.node_id]), free, one.trouble
