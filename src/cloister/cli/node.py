"""``cloister node``: the supervisor process, started by ``cloister serve``. The work is in ``cloister.processes.node``."""

from __future__ import annotations

import argparse
import os

from cloister.config.load import add_arguments, load
from cloister.processes.node import run_node
from cloister.processes.preflight import refuse_weak_code

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--parent", type=int, help="process id of the launcher; the process ends with it")
    parser.add_argument("--ready-fd", type=int, help="descriptor that receives one line of JSON when the node serves")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the node protocol until a signal comes."""
    refuse_weak_code(os.environ)
    run_node(load(args, os.environ), parent=args.parent, ready_fd=args.ready_fd)
    return 0
