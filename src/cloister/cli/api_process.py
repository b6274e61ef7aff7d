"""``cloister api``: the unprivileged process with the REST API, the ingress and the resolver. Started by ``cloister serve``.

Started as root it becomes ``--uid`` for good before it opens a file of its own or reads a byte from anybody; by then everything that it
needs of a code directory that the uid cannot read has been imported.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import encodings.idna  # noqa: F401 - asyncio imports it late, when this uid may no longer be able to read it
import os
import signal
import socket
from pathlib import Path
from typing import Self

import structlog

from cloister.cli.api_server import ApiServer, TlsListener
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.linux.identity import become_unprivileged, die_with_parent
from cloister.store.migrate import load_migrations
from cloister.telemetry.logging import configure_logging
from cloister.tls.context import ReplaceableContext
from cloister.tls.handover import receive, receive_first

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("api", help="the API and ingress process (started by serve)")
    parser.add_argument("--uid", type=int, help="user and group id to become; needed when started as root")
    parser.add_argument("--parent", type=int, help="process id of who starts this, without whom it is not to run")
    parser.add_argument("--listen-fd", type=int, required=True, help="descriptor of the listening TCP socket")
    parser.add_argument("--tls-listen-fd", type=int, help="descriptor of the listening TCP socket for TLS")
    parser.add_argument("--tls-fd", type=int, help="descriptor on which the launcher sends key and certificate")
    parser.add_argument("--node-socket", type=Path, required=True, help="the supervisor's socket")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    settings = load(args, os.environ)
    load_migrations()
    become_unprivileged(args.uid)
    die_with_parent(signal.SIGTERM, args.parent)
    configure_logging(settings.log_level, settings.log_format, process="api")
    return asyncio.run(_serve(settings, args))


async def _serve(settings: Settings, args: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log = structlog.get_logger("cloister.api")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(fileno=args.listen_fd))
        tls = None if args.tls_fd is None else stack.enter_context(_TlsListener(args.tls_listen_fd, args.tls_fd)).start()
        server = ApiServer(settings, listener, args.node_socket, tls=tls)
        await server.start()
        log.info("api.started", pid=os.getpid(), uid=os.getuid())
        try:
            await stopping.wait()
        finally:
            log.info("api.stopping")
            await server.close()
    return 0


class _TlsListener:
    """The TLS listener's socket, and the certificates that the launcher sends for it."""

    def __init__(self, listen_fd: int, channel_fd: int) -> None:
        self._listener = socket.socket(fileno=listen_fd)
        self._channel = socket.socket(fileno=channel_fd)
        self._context = ReplaceableContext(receive_first(self._channel))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        self._listener.close()

    def start(self) -> TlsListener:
        """Take new certificates from now on."""
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        return TlsListener(self._listener, self._context.listening)

    def _receive(self) -> None:
        pem = receive(self._channel)
        if pem:
            self._context.replace(pem)
        else:
            asyncio.get_running_loop().remove_reader(self._channel)
