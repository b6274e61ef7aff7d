"""``cloister api``: the API and ingress process, started by ``cloister serve``. The work is in ``cloister.processes.api``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.processes.api import Handover, run_api

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--uid", type=int, help="user and group id to become; required when started as root")
    parser.add_argument("--parent", type=int, help="process id of the launcher; the process ends with it")
    parser.add_argument("--listen-fd", type=int, required=True, help="descriptor of the listening TCP socket")
    parser.add_argument("--tls-listen-fd", type=int, help="descriptor of the listening TCP socket for TLS")
    parser.add_argument("--tls-fd", type=int, help="descriptor on which the launcher sends key and certificate")
    parser.add_argument("--values-fd", type=int, help="descriptor of the listening socket for values of headers")
    parser.add_argument("--egress-uid", type=int, help="user that may connect to it")
    parser.add_argument("--node-socket", type=Path, help="the supervisor's socket; without it the nodes of the cluster")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    tls, values = (args.tls_listen_fd, args.tls_fd), (args.values_fd, args.egress_uid)
    handover = Handover(args.uid, args.parent, args.listen_fd, args.node_socket, *tls, *values)
    run_api(load(args, os.environ), handover)
    return 0
