"""Takes part in the connections of hosts with header rules: HTTP/1.1 and HTTP/2, over TLS or plain.

The upstream comes first: the guest is offered the protocol that it chose (ALPN), so a connection has the same one on both sides. Invariant:
nothing of a request leaves before the upstream's certificate is verified. If it is not, or there is no upstream, the guest gets a text
instead, under a certificate of its own sandbox's authority.
Runs in: egress process, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from functools import partial
from pathlib import Path

import structlog

from cloister.egress.client_hello import HelloError, parse_client_hello
from cloister.egress.connection import Connection, DialError
from cloister.egress.intercept.contexts import GuestContexts, UpstreamContexts
from cloister.egress.intercept.exchange import Exchange
from cloister.egress.intercept.header_rules import ValueSource, injected_headers
from cloister.egress.intercept.http1 import answer_with_refusal, relay_http1
from cloister.egress.intercept.http2 import refuse_http2, relay_http2
from cloister.egress.intercept.requests import Destination, RefusedRequestError
from cloister.egress.intercept.streams import PlainStream, Stream, TlsStream
from cloister.egress.intercept.values_client import ValuesClient
from cloister.egress.reasons import Reason
from cloister.network.limits import Bound

__all__ = ["HeaderInterceptor", "open_interceptor"]

_log = structlog.get_logger("cloister.egress")
_PROTOCOLS = ("h2", "http/1.1")
_HANDSHAKE_S = 30.0
_WIDE_PER_SANDBOX, _WIDE = 8, 64
"""Connections of HTTP/2 that may hold 4 MiB in each direction for a slow receiver; others hold 64 KiB."""


class HeaderInterceptor:
    """An :class:`~cloister.egress.connection.Interceptor`."""

    def __init__(self, guests: GuestContexts, upstreams: UpstreamContexts, values: ValueSource) -> None:
        self._guests = guests
        self._upstreams = upstreams
        self._values = values
        self._wide = Bound(_WIDE_PER_SANDBOX, _WIDE)

    async def intercept(self, connection: Connection) -> None:
        """See :class:`~cloister.egress.connection.Interceptor`. Raises: OSError."""
        name = connection.name or ""
        destination = Destination(name, connection.original[1], "https" if connection.is_tls else "http")
        exchange = Exchange(
            destination,
            partial(injected_headers, connection.rule, connection.sandbox_id, name, self._values),
            partial(_note, connection),
            connection.pace,
        )
        if connection.is_tls:
            await self._intercept_tls(connection, exchange)
        else:
            await self._intercept_plain(connection, exchange)

    async def _intercept_plain(self, connection: Connection, exchange: Exchange) -> None:
        guest = PlainStream(connection.client)
        try:
            upstream = PlainStream((await connection.dial()).stream)
        except DialError as error:
            refusal = _unreachable(error)
            _note(connection, refusal, error.reason)
            await answer_with_refusal(guest, refusal)
            return
        await relay_http1(guest, upstream, exchange)
        await _end(guest, upstream)

    async def _intercept_tls(self, connection: Connection, exchange: Exchange) -> None:
        offered = _offered_protocols(connection)
        try:
            upstream = await self._open_upstream(connection, exchange.destination.name, offered)
        except _NoUpstreamError as error:
            protocol = "h2" if offered == ("h2",) else "http/1.1" if offered else None
            guest = await self._accept(connection, exchange.destination.name, protocol)
            _note(connection, error.refusal, error.reason)
            if protocol == "h2":
                await refuse_http2(guest, error.refusal, exchange)
            else:
                await answer_with_refusal(guest, error.refusal)
            await _end(guest)
            return
        guest = await self._accept(connection, exchange.destination.name, upstream.protocol)
        if upstream.protocol == "h2":
            await self._relay_http2(guest, upstream, connection.sandbox_id, exchange)
        else:
            await relay_http1(guest, upstream, exchange)
        await _end(guest, upstream)

    async def _relay_http2(self, guest: Stream, upstream: Stream, sandbox_id: str, exchange: Exchange) -> None:
        """Raises: OSError."""
        is_wide = self._wide.take(sandbox_id)
        try:
            await relay_http2(guest, upstream, dataclasses.replace(exchange, is_wide=is_wide))
        finally:
            if is_wide:
                self._wide.give_back(sandbox_id)

    async def _accept(self, connection: Connection, name: str, protocol: str | None) -> TlsStream:
        """Raises: OSError: the guest does not trust its authority, or broke off."""
        await connection.pace.turn()
        context = self._guests.context(connection.sandbox_id, name, protocol)
        guest = TlsStream(connection.client, context, is_server=True)
        await _in_time(guest)
        return guest

    async def _open_upstream(self, connection: Connection, name: str, offered: tuple[str, ...]) -> TlsStream:
        """Raises: _NoUpstreamError."""
        try:
            below = (await connection.dial()).stream
            stream = TlsStream(below, self._upstreams.context(offered), is_server=False, server_name=name)
            await _in_time(stream)
        except DialError as error:
            raise _NoUpstreamError(_unreachable(error), error.reason) from error
        except ssl.SSLCertVerificationError as error:
            text = f"the certificate of {name} could not be verified: {error.verify_message}"
            raise _NoUpstreamError(RefusedRequestError(502, text), "untrusted_certificate") from error
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can have
            raise _NoUpstreamError(RefusedRequestError(502, f"no TLS connection to {name}: it failed"), "tls_failed") from error
        if offered and stream.protocol is None and "http/1.1" not in offered:
            raise _NoUpstreamError(RefusedRequestError(502, f"{name} does not speak HTTP/2"), "tls_failed")
        return stream


def open_interceptor(secret: bytes, certificates: str, values: Path) -> HeaderInterceptor:
    """The interceptor of a process: with the secret of the authorities, the certificates (PEM) to trust, and the api process's socket."""
    return HeaderInterceptor(GuestContexts(secret), UpstreamContexts(certificates), ValuesClient(values))


class _NoUpstreamError(Exception):
    """``refusal`` is for the guest, ``reason`` for the record."""

    def __init__(self, refusal: RefusedRequestError, reason: Reason) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason


def _unreachable(error: DialError) -> RefusedRequestError:
    return RefusedRequestError(502, f"no connection to this host: {error.reason.replace('_', ' ')}")


def _offered_protocols(connection: Connection) -> tuple[str, ...]:
    """The protocols of the guest's hello that we can relay, in its order; empty: it names none, and speaks HTTP/1.1."""
    data = connection.client.take_unread()
    connection.client.unread(data)
    try:
        hello = parse_client_hello(data)
    except HelloError:
        hello = None
    found = () if hello is None else hello.protocols
    return tuple(dict.fromkeys(protocol for protocol in found if protocol in _PROTOCOLS))  # a context is kept for each answer


async def _in_time(stream: TlsStream) -> None:
    """Raises: OSError."""
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            await stream.handshake()
    except TimeoutError as error:
        raise ConnectionResetError("a TLS handshake took too long") from error


async def _end(*streams: Stream) -> None:
    """Say that no more comes. Raises: OSError: a side broke off, so the other one must not take what it has for whole."""
    if any(stream.was_truncated for stream in streams):
        raise ConnectionResetError("a side broke off")
    for stream in streams:
        with contextlib.suppress(OSError):  # it has ended already
            await stream.end()


def _note(connection: Connection, refusal: RefusedRequestError, reason: Reason | None = None) -> None:
    """Write a refusal into the record, in place of the verdict."""
    if connection.verdict is not None:
        rule = reason or f"request_refused_{refusal.status}"
        connection.verdict = dataclasses.replace(connection.verdict, is_allowed=False, rule=rule)
    _log.info("egress.request_refused", sandbox_id=connection.sandbox_id, name=connection.name, status=refusal.status, reason=reason)
