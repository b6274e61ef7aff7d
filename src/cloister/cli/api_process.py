"""``cloister api``: the unprivileged process with the REST API, the ingress and the resolver. Started by ``cloister serve``.

Started as root it becomes ``--uid`` for good before it opens a file of its own or reads a byte from anybody; by then everything that it
needs of a code directory that the uid cannot read has been imported.
"""

from __future__ import annotations

import argparse
import asyncio
import encodings.idna  # noqa: F401 - asyncio imports it late, when this uid may no longer be able to read it
import os
import signal
import socket
from pathlib import Path

import structlog

from cloister.cli.api_server import ApiServer
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.linux.identity import become_unprivileged, die_with_parent
from cloister.store.migrate import load_migrations
from cloister.telemetry.logging import configure_logging

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("api", help="the API and ingress process (started by serve)")
    parser.add_argument("--uid", type=int, help="user and group id to become; needed when started as root")
    parser.add_argument("--listen-fd", type=int, required=True, help="descriptor of the listening TCP socket")
    parser.add_argument("--node-socket", type=Path, required=True, help="the supervisor's socket")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    settings = load(args, os.environ)
    load_migrations()
    become_unprivileged(args.uid)
    die_with_parent(signal.SIGTERM)
    configure_logging(settings.log_level, settings.log_format, process="api")
    return asyncio.run(_serve(settings, args.listen_fd, args.node_socket))


async def _serve(settings: Settings, listen_fd: int, node_socket: Path) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log = structlog.get_logger("cloister.api")
    with socket.socket(fileno=listen_fd) as listener:
        server = ApiServer(settings, listener, node_socket)
        await server.start()
        log.info("api.started", pid=os.getpid(), uid=os.getuid())
        try:
            await stopping.wait()
        finally:
            log.info("api.stopping")
            await server.close()
    return 0
