"""The names of the pretend internet: a resolver whose answers a test changes while it runs, hostile ones included.

Used by both of its server processes, so it imports nothing but dnslib.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from dnslib import HTTPS, QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSRecord, DNSServer

__all__ = ["Zone", "serve_names"]

_TTL_S = 5
_REMEMBERED = 10_000
_ECH_CONFIG = bytes.fromhex(
    "0045fe0d0041590020002092a01233db2218518ccbbbbc24df20686af417b37388de6460e94011974777090004000100010012636c6f7564"
)
"""Begins as an ECHConfigList does; no client could use it (draft-ietf-tls-esni section 4)."""


class Zone(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Answers A questions for the given names, and HTTPS questions for those with ``ech``; other names do not exist. Thread-safe.

    An entry is JSON-ready::

        {"addresses": [ONE ANSWER'S ADDRESSES, THE NEXT ANSWER'S, …], "ttl": s, "fault": null | "id" | "question", "ech": bool}

    The last answer stays. ``fault`` is what a forger gets wrong: the answer's id, or the name in it. ``*.x`` is an entry for all names
    below x that have none of their own.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {name: {"addresses": [[address]]} for name, address in names.items()}
        self._questions: deque[list[str]] = deque(maxlen=_REMEMBERED)

    def put(self, name: str, entry: dict[str, Any] | None) -> None:
        """Replace a name's entry; None: the name does not exist any more."""
        with self._lock:
            if entry is None:
                self._entries.pop(name, None)
            else:
                self._entries[name] = {**entry, "addresses": list(entry["addresses"])}

    def questions(self) -> list[list[str]]:
        """Name, type and client of the last questions, oldest first."""
        with self._lock:
            return list(self._questions)

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answer a question; dnslib calls it."""
        name = str(request.q.qname).rstrip(".").lower()
        answer = request.reply()
        with self._lock:
            client = getattr(handler, "client_address", ("",))[0]
            self._questions.append([name, str(QTYPE.get(request.q.qtype, request.q.qtype)), client])
            entry = self._entries.get(name) or self._wildcard(name)
            if entry is None:
                answer.header.rcode = RCODE.NXDOMAIN
                return answer
            self._fill(answer, request, entry)
        return answer

    def _wildcard(self, name: str) -> dict[str, Any] | None:
        labels = name.split(".")
        patterns = ("*." + ".".join(labels[first:]) for first in range(1, len(labels)))
        return next((self._entries[pattern] for pattern in patterns if pattern in self._entries), None)

    def _fill(self, answer: DNSRecord, request: DNSRecord, entry: dict[str, Any]) -> None:
        name, ttl = request.q.qname, entry.get("ttl", _TTL_S)
        if entry.get("fault") == "question":
            answer.q.qname = name = "elsewhere.example"
        if request.q.qtype == QTYPE.A:
            answers = entry["addresses"]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            for address in addresses:
                answer.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=ttl))
        elif request.q.qtype == QTYPE.HTTPS and entry.get("ech"):
            parameters = [(1, bytearray(b"\x02h2")), (5, bytearray(_ECH_CONFIG))]
            answer.add_answer(RR(name, QTYPE.HTTPS, rdata=HTTPS(1, [], parameters), ttl=ttl))
        if entry.get("fault") == "id":
            answer.header.id ^= 1


def serve_names(zone: Zone, address: str) -> None:
    """Answer by UDP and TCP at an address, on threads that end with the process."""
    for tcp in (False, True):
        server = DNSServer(zone, address=address, port=53, tcp=tcp, logger=DNSLogger("-send,-recv,-request,-reply,-truncated,-error"))
        server.start_thread()
