"""``cloister node``: lets this machine join a cluster; drains and removes nodes, on the machine of an api process.

Without an action it is the supervisor process, which ``cloister serve`` starts. The work of that is in ``cloister.processes.node``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from cloister.cli.opened import open_store
from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import ConflictError, NotFoundError, PermissionDeniedError
from cloister.model.sandbox import SandboxState
from cloister.processes.joining import join_cluster
from cloister.processes.node import run_node
from cloister.processes.preflight import refuse_weak_code

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--parent", type=int, help="process id of the launcher; the process ends with it")
    parser.add_argument("--ready-fd", type=int, help="descriptor that receives one line of JSON when the node serves")
    add_arguments(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", prog="cloister node")
    join = actions.add_parser("join", help="make this machine's key, and get its certificate from the cluster by a token")
    join.add_argument("--api", metavar="URL", required=True, help="an api process of the cluster")
    join.add_argument("--token", metavar="TOKEN", help="from `cloister cluster token`; without it, a line of standard input")
    join.add_argument("--address", metavar="HOST:PORT", required=True, help="where api processes reach this machine's listener")
    add_arguments(join, "data_dir", "run_dir")
    for name, text in (
        ("drain", "give a node no new sandboxes; those that it has go on"),
        ("undrain", "give a drained node sandboxes again"),
        ("remove", "forget a node that has no sandbox"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("node_id", metavar="ID", help="the node, from `cloister nodes`")
        add_arguments(action, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Run the action, or serve the node protocol until a signal comes."""
    if args.action is None:
        refuse_weak_code(os.environ)
        run_node(load(args, os.environ), parent=args.parent, ready_fd=args.ready_fd)
        return 0
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the server's state belongs to root", hint="run this as root")
    if args.action == "join":
        node_id = join_cluster(settings, args.api, args.token or sys.stdin.readline(), args.address)
        print(f"{node_id} has joined; start it: cloister serve --role node --listen {args.address}")
        return 0
    with recorded(settings, f"node.{args.action}", args.node_id):
        asyncio.run(_change(settings, args.action, args.node_id))
    return 0


async def _change(settings: Settings, action: str, node_id: str) -> None:
    async with open_store(settings) as store:
        if action == "remove":
            live = [row for row in await store.list_sandboxes(ended_since=float("inf")) if row.node_id == node_id]
            if any(row.state is not SandboxState.ENDED for row in live):
                raise ConflictError(f"node {node_id} has {len(live)} sandboxes", hint="drain it, and end or resume them first")
            found = await store.nodes.remove_node(node_id)
        else:
            found = await store.nodes.set_draining(node_id, is_draining=action == "drain")
    if not found:
        raise NotFoundError(f"there is no node {node_id}", hint="cloister nodes lists them")
