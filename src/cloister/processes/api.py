"""The api process: REST API, ingress and resolver, unprivileged. ``cloister serve`` starts it.

Started as root, it changes to ``--uid`` permanently before it opens its own files or reads any input. It imports all its code before that,
because the uid may not be able to read the code directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from encodings import idna, punycode, utf_8_sig, utf_16, utf_16_be, utf_16_le, utf_32, utf_32_be, utf_32_le
from pathlib import Path
from typing import Self

import structlog

from cloister.config.settings import Settings
from cloister.linux.identity import become_unprivileged, die_with_parent
from cloister.processes.api_server import ApiServer, TlsListener, ValuesListener, load_cluster
from cloister.store.migrate import load_migrations
from cloister.store.opening import load_shared
from cloister.telemetry.logging import configure_logging
from cloister.telemetry.tracing import load_tracing
from cloister.tls.context import ReplaceableContext
from cloister.tls.handover import receive, receive_first

__all__ = ["Handover", "run_api"]

_IMPORTED_NOW = (idna, punycode, utf_8_sig, utf_16, utf_16_be, utf_16_le, utf_32, utf_32_be, utf_32_le)
"""asyncio and json import these late, for what a client sends, when this uid may no longer be able to read them."""


@dataclass(frozen=True)
class Handover:
    """Values and descriptors from the launcher; descriptors are inherited and belong to the api process."""

    uid: int | None
    """User and group id to become; None: the process was not started as root."""
    parent: int | None
    """The launcher's process id; None: the process has no launcher."""
    listen_fd: int
    node_socket: Path | None
    """None: the process serves the nodes of a cluster."""
    tls_listen_fd: int | None = None
    tls_fd: int | None = None
    """Socket on which the launcher sends key and certificate."""
    values_fd: int | None = None
    """Listening socket of the server of header values; None: there is none."""
    egress_uid: int | None = None
    """User of the egress process, the only one that may use it."""


def run_api(settings: Settings, handover: Handover) -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    load_migrations()  # their directory may be closed to the uid that this process becomes
    if settings.otlp_endpoint is not None:
        load_tracing()
    if settings.database_url is not None:
        load_shared()
    if handover.node_socket is None:
        load_cluster()
    become_unprivileged(handover.uid)
    die_with_parent(signal.SIGTERM, handover.parent)
    configure_logging(settings.log_level, settings.log_format, process="api")
    asyncio.run(_serve(settings, handover))


async def _serve(settings: Settings, handover: Handover) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log = structlog.get_logger("cloister.api")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(fileno=handover.listen_fd))
        tls = None
        if handover.tls_listen_fd is not None and handover.tls_fd is not None:
            tls = stack.enter_context(_TlsListener(handover.tls_listen_fd, handover.tls_fd)).start()
        values = None
        if handover.values_fd is not None and handover.egress_uid is not None:
            values = ValuesListener(stack.enter_context(socket.socket(fileno=handover.values_fd)), handover.egress_uid)
        server = ApiServer(settings, listener, handover.node_socket, tls=tls, values=values)
        await server.start()
        log.info("api.started", pid=os.getpid(), uid=os.getuid())
        try:
            await stopping.wait()
        finally:
            log.info("api.stopping")
            await server.close()


class _TlsListener:
    """The TLS listener's socket, and the certificates from the launcher."""

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
        """Receive new certificates from now on."""
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        return TlsListener(self._listener, self._context.listening)

    def _receive(self) -> None:
        pem = receive(self._channel)
        if pem:
            self._context.replace(pem)
        else:
            asyncio.get_running_loop().remove_reader(self._channel)
