"""Questions to resolvers: their form, how one is asked by UDP and TCP, which answer counts, and when the next resolver is asked.

A datagram may be lost, and any process on the way may stand still for a while on a busy machine. So a question by UDP is sent again, and a
resolver that has not answered is still listened to while the next one is asked.
Invariant: every question leaves by a socket of its own (a random port, connected to one resolver). An answer counts only if id and
question match; the caller chooses a random id.
Source: RFC 1035 (format, TCP length prefix; section 4.2.1: retransmission), RFC 5452 (forgery resilience), RFC 7766 (TCP).
Runs in: api process, resolver process of a build, egress process (asyncio). Needs: no capability.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from cloister.network.dns_messages import HEADER_BYTES, question

__all__ = [
    "NEXT_AFTER_S",
    "SERVFAIL",
    "Ask",
    "QueryError",
    "Resolver",
    "ask_any",
    "ask_tcp",
    "ask_udp",
    "failure",
    "pass_on",
]

SERVFAIL = 2
NEXT_AFTER_S = 2.0
"""The head start of each resolver before the next one."""
_AGAIN_S = 1.0
"""After this time a question by UDP is sent again, then after twice as long, and so on."""
_Address = tuple[str, int]
Resolver = tuple[_Address, str | None]
"""Address and port of a resolver, and the address to ask from; None: any."""
Ask = Callable[[_Address, bytes, str | None], Awaitable[bytes]]
""":func:`ask_udp` or :func:`ask_tcp`."""
_Answer = TypeVar("_Answer")


class QueryError(Exception):
    """A resolver answered another question, or has no answer."""


_FAILURES = (OSError, asyncio.IncompleteReadError, QueryError)


def failure(query: bytes, code: int = SERVFAIL) -> bytes:
    """The answer to ``query`` with that response code and nothing else."""
    asked = query[HEADER_BYTES : HEADER_BYTES + len(question(query))]
    flags = 0x8080 | (struct.unpack_from("!H", query, 2)[0] & 0x7900) | code
    return query[:2] + struct.pack("!H", flags) + query[4:6] + bytes(6) + asked


def _matches(query: bytes, answer: bytes) -> bool:
    if len(answer) < HEADER_BYTES or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    return question(answer).lower() in (question(query).lower(), b"")  # some resolvers change the case of letters


class _UdpQuestion(asyncio.DatagramProtocol):
    """One query in flight to one upstream."""

    def __init__(self, query: bytes, answer: asyncio.Future[bytes]) -> None:
        self._query, self._answer = query, answer

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - the interface's; the socket is connected
        if not self._answer.done() and _matches(self._query, data):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def ask_udp(upstream: _Address, query: bytes, source: str | None = None) -> bytes:
    """The answer of ``upstream``, asked from the address ``source``. Raises: OSError. The caller sets the time limit."""
    local = None if source is None else (source, 0)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _UdpQuestion(query, answer), remote_addr=upstream, local_addr=local)
    pause = _AGAIN_S
    try:
        while not answer.done():
            transport.sendto(query)
            await asyncio.wait([answer], timeout=pause)
            pause *= 2
        return answer.result()
    finally:
        transport.close()


async def ask_tcp(upstream: _Address, query: bytes, source: str | None = None) -> bytes:
    """As :func:`ask_udp`, by TCP. Raises: OSError; asyncio.IncompleteReadError; QueryError: it answers another question."""
    reader, writer = await asyncio.open_connection(*upstream, local_addr=None if source is None else (source, 0))
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        answer = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
    finally:
        writer.close()
    if not _matches(query, answer):
        raise QueryError("the upstream answered another question")
    return answer


async def ask_any(resolvers: Iterable[Resolver], ask: Callable[[Resolver], Awaitable[_Answer]], last_s: float) -> _Answer | None:
    """The answer of the first resolver for which ``ask`` gives one; None: none does in time.

    Each resolver is asked when the one before it has failed, or :data:`NEXT_AFTER_S` after it; the last one has ``last_s``. ``ask`` fails
    by OSError, asyncio.IncompleteReadError or QueryError.
    """
    waiting = list(resolvers)
    tasks: set[asyncio.Task[_Answer]] = set()
    try:
        async with asyncio.timeout(NEXT_AFTER_S * max(0, len(waiting) - 1) + last_s):
            while waiting or tasks:
                if waiting:
                    tasks.add(asyncio.ensure_future(ask(waiting.pop(0))))
                done, tasks = await asyncio.wait(tasks, timeout=NEXT_AFTER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED)
                answers = [task.result() for task in done if not isinstance(task.exception(), _FAILURES)]
                if answers:
                    return answers[0]
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
    return None


async def pass_on(query: bytes, resolvers: Iterable[Resolver], ask: Ask, last_s: float) -> bytes:
    """The answer to a client's query, which the resolvers are asked under ids of their own; SERVFAIL: none has one. See :func:`ask_any`."""
    answer = await ask_any(resolvers, partial(_ask_anew, query, ask), last_s)
    return failure(query) if answer is None else query[:2] + answer[2:]


async def _ask_anew(query: bytes, ask: Ask, resolver: Resolver) -> bytes:
    upstream, source = resolver
    return await ask(upstream, secrets.token_bytes(2) + query[2:], source)
