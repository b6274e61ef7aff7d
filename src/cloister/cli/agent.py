"""``cloister agent``: the node agent, started by ``cloister serve --role node``. The work is in ``cloister.processes.node_agent``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.processes.node_agent import AgentHandover, run_node_agent

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--uid", type=int, help="user and group id to become; required when started as root")
    parser.add_argument("--parent", type=int, help="process id of the launcher; the process ends with it")
    parser.add_argument("--listen-fd", type=int, required=True, help="descriptor of the listening TCP socket")
    parser.add_argument("--values-fd", type=int, help="descriptor of the listening socket for values of headers")
    parser.add_argument("--egress-uid", type=int, help="user that may connect to it")
    parser.add_argument("--node-socket", type=Path, required=True, help="the supervisor's socket")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    handover = AgentHandover(args.uid, args.parent, args.listen_fd, args.node_socket, args.values_fd, args.egress_uid)
    run_node_agent(load(args, os.environ), handover)
    return 0
