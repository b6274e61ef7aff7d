"""Asks resolvers for the addresses of a name.

Runs in: egress process, for sandboxes; api process, for the proxies of clients (asyncio). Needs: no capability.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import partial

from cloister.network.dns_exchange import Ask, QueryError, Resolver, ask_any, ask_tcp, ask_udp
from cloister.network.dns_messages import NXDOMAIN, A, Answer, MessageError, make_query, parse_answer

__all__ = ["LAST_S", "ask_addresses"]

LAST_S = 10.0
"""For the last resolver. It may be the server's own, which needs nine seconds where the first two of its three resolvers are silent."""


async def ask_addresses(resolvers: Iterable[Resolver], name: str) -> Answer | None:
    """The answer of the first resolver that gives one, asked by TCP if it is too long for UDP; None: none does.

    ``name`` is as :func:`~cloister.model.host_patterns.clean_name` returns it.
    """
    return await ask_any(resolvers, partial(_ask_one, name), LAST_S)


async def _ask_one(name: str, resolver: Resolver) -> Answer:
    """Raises: as ``ask`` of :func:`~cloister.network.dns_exchange.ask_any`."""
    answer = await _ask_by(ask_udp, resolver, name)
    if answer.is_truncated:
        answer = await _ask_by(ask_tcp, resolver, name)
    if answer.code not in (0, NXDOMAIN):
        raise QueryError("the resolver has no answer")
    return answer


async def _ask_by(ask: Ask, resolver: Resolver, name: str) -> Answer:
    """One question, under a random id."""
    upstream, source = resolver
    try:
        return parse_answer(await ask(upstream, make_query(secrets.randbelow(1 << 16), name, A), source), name)
    except MessageError as error:
        raise QueryError("the resolver's answer is malformed") from error
