"""Serves a plain HTTP connection that is allowed because of its host: each request in it must name the same one.

The first request's Host decided where the connection goes. Another Host in a later request would reach a further site of the same server,
so it ends the connection before anything of that request is passed on. Sandboxes see a reset, and no answer that is not the server's.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from cloister.egress.connection import Connection
from cloister.egress.intercept.exchange import Exchange
from cloister.egress.intercept.http1 import relay_http1
from cloister.egress.intercept.requests import Destination, Headers, RefusedRequestError
from cloister.egress.intercept.streams import PlainStream

__all__ = ["relay_named_requests"]


async def relay_named_requests(connection: Connection) -> None:
    """Relay until one side ends. Raises: DialError; OSError: one was reset, or a request is refused."""
    destination = Destination(connection.name or "", connection.original[1], "http")
    upstream = await connection.dial()
    exchange = Exchange(destination, _no_headers, partial(_refuse, connection), pace=connection.pace)
    await relay_http1(PlainStream(connection.client), PlainStream(upstream.stream), exchange)


async def _no_headers() -> Headers:
    return []


def _refuse(connection: Connection, refusal: RefusedRequestError) -> None:
    """Raises: ConnectionAbortedError."""
    if connection.verdict is not None:
        connection.verdict = dataclasses.replace(connection.verdict, is_allowed=False, rule=f"request_refused_{refusal.status}")
    raise ConnectionAbortedError("a request is refused")
