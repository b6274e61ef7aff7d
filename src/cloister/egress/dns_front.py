"""Answers the questions of sandboxes whose DNS the kernel redirects, to whatever resolver they were sent.

A sandbox that is limited to names gets addresses of those names and nothing else, so it cannot carry data out in questions for others.
Other sandboxes' questions are passed on. Neither learns the keys of encrypted ClientHellos, which would hide the name of a connection.
Owns the sockets and the questions in flight. Must not: answer a source without a policy.
Runs in: egress process, on the event loop. Source: RFC 1035, RFC 7766, RFC 9460.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from cloister.egress.connection import DialError
from cloister.egress.lookup import DNS_PORT, Lookup
from cloister.egress.policies import Admitted, PolicyTable
from cloister.egress.records import RecordBuffer
from cloister.egress.verdicts import refused
from cloister.model.connection import ConnectionRecord
from cloister.network.dns_addresses import LAST_S
from cloister.network.dns_exchange import Ask, failure, pass_on
from cloister.network.dns_messages import AAAA, HTTPS, REFUSED, SVCB, A, MessageError, Question, parse_question, render_answer
from cloister.network.dns_server import DnsServer
from cloister.network.looked_up import LookupBuffer, look_up_of

__all__ = ["DnsFront", "Notes"]


@dataclass(frozen=True)
class Notes:
    """What is told of questions."""

    records: RecordBuffer
    look_ups: LookupBuffer = field(default_factory=LookupBuffer)


class DnsFront:
    """Serves a UDP and a listening TCP socket, which it takes over."""

    def __init__(self, sockets: tuple[socket.socket, socket.socket], policies: PolicyTable, lookup: Lookup, notes: Notes) -> None:
        """``notes`` get the names that were refused, and those that were not."""
        self._policies = policies
        self._lookup = lookup
        self._notes = notes
        self._server = DnsServer(*sockets, self._answer)

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Close the sockets and drop the questions in flight."""
        await self._server.stop()

    async def _answer(self, client: str, query: bytes, ask: Ask) -> bytes | None:
        answer = await self._find_answer(client, query, ask)
        if answer is not None and (look_up := look_up_of(client, query, answer, time.time())):
            self._notes.look_ups.add(look_up)
        return answer

    async def _find_answer(self, client: str, query: bytes, ask: Ask) -> bytes | None:
        admitted = self._policies.find(client)
        if admitted is None:
            return None
        try:
            question = parse_question(query)
            if not admitted.policy.resolves:
                return failure(query, REFUSED)
            if admitted.policy.is_limited_to_names:
                return await self._answer_name(admitted, query, question)
            if question.kind in (HTTPS, SVCB):
                return render_answer(query, (), 0)
            return await pass_on(query, self._lookup.resolvers(admitted), ask, LAST_S)
        except MessageError:
            return failure(query, REFUSED)

    async def _answer_name(self, admitted: Admitted, query: bytes, question: Question) -> bytes:
        name = question.name
        if name is None or not admitted.judge.allows_name(name):
            self._note_refused(admitted, name)
            return failure(query, REFUSED)
        if question.kind not in (A, AAAA, HTTPS, SVCB):
            return failure(query, REFUSED)
        if question.kind != A:
            return render_answer(query, (), 0)
        try:
            pin = await self._lookup.pin(admitted, name)
        except DialError:
            return failure(query)
        return render_answer(query, pin.addresses, pin.lifetime_s, pin.code)

    def _note_refused(self, admitted: Admitted, name: str | None) -> None:
        self._notes.records.add(
            ConnectionRecord(
                sandbox_id=admitted.sandbox_id,
                at=time.time(),
                protocol="udp",
                address="",
                port=DNS_PORT,
                name=name,
                verdict="refused",
                rule=refused("name_not_allowed").rule,
            )
        )
