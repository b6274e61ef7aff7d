"""Names that sandboxes looked up, by the addresses in the answers: the record of connections shows them for those that only the kernel saw.

:class:`LookupBuffer` is where questions are answered (api process, egress process), :class:`LookedUpNames` in the supervisor. A name is
what a sandbox asked before its connection, and no proof of what the connection was for. Invariants: memory is bounded, for each sandbox
and for all; a name is shown only to the sandbox that looked it up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from cloister.model.connection import MAX_ADDRESSES, ConnectionRecord, LookUp
from cloister.network.dns_messages import A, MessageError, parse_answer, parse_question

__all__ = ["LookedUpNames", "LookupBuffer", "look_up_of"]

PER_CLIENT, WAITING = 64, 2000
"""Look-ups of one client, and of all, that wait to be told. More are not told."""
ADDRESSES_PER_SANDBOX, ADDRESSES = 256, 65_536
"""Addresses of which names are kept, for one sandbox and for all."""
_NAMES = 2
"""Newest names of an address."""


def look_up_of(client: str, query: bytes, answer: bytes, at: float) -> LookUp | None:
    """The look-up that ``answer`` ends, of ``client``; None: it has no address of a host name."""
    try:
        question = parse_question(query)
        if question.kind != A or question.name is None:
            return None
        found = parse_answer(answer, question.name).addresses[:MAX_ADDRESSES]
    except MessageError:
        return None
    return LookUp(client, at, question.name, tuple(map(str, found))) if found else None


class LookupBuffer:
    """Look-ups since the last :meth:`take`, bounded under floods."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[str, tuple[str, ...]], LookUp]] = {}
        self._count = 0

    def add(self, look_up: LookUp) -> None:
        """Keep it until the next :meth:`take`, if there is room."""
        mine = self._waiting.setdefault(look_up.client, {})
        key = (look_up.name, look_up.addresses)
        if key not in mine and len(mine) < PER_CLIENT and self._count < WAITING:
            mine[key] = look_up
            self._count += 1

    def take(self) -> tuple[LookUp, ...]:
        """All of them, the oldest of a client first."""
        found = tuple(look_up for mine in self._waiting.values() for look_up in mine.values())
        self._waiting.clear()
        self._count = 0
        return found


class LookedUpNames:
    """The newest names of addresses, by sandbox. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: OrderedDict[str, OrderedDict[str, tuple[tuple[float, str], ...]]] = OrderedDict()
        """By sandbox, the one that looked up last at the end; by address, the same; the times of first look-ups and names, newest first."""
        self._count = 0

    def note(self, sandbox_id: str, look_up: LookUp) -> None:
        """The sandbox got this answer."""
        with self._lock:
            mine = self._names.setdefault(sandbox_id, OrderedDict())
            self._names.move_to_end(sandbox_id)
            for address in look_up.addresses:
                former = mine.pop(address, ())
                self._count += not former
                is_known = bool(former) and former[0][1] == look_up.name
                mine[address] = former if is_known else ((look_up.at, look_up.name), *former[: _NAMES - 1])
            while len(mine) > ADDRESSES_PER_SANDBOX:
                mine.popitem(last=False)
                self._count -= 1
            while self._count > ADDRESSES:
                _, oldest = self._names.popitem(last=False)
                self._count -= len(oldest)

    def named(self, record: ConnectionRecord) -> ConnectionRecord:
        """The record, with the name that was looked up if it has none and the connection was allowed."""
        if record.name is not None or not record.address or record.verdict != "allowed":
            return record
        name = self.name(record.sandbox_id, record.address, record.at)
        return record if name is None else replace(record, name=name, is_looked_up=True)

    def name(self, sandbox_id: str, address: str, when: float) -> str | None:
        """The name that the sandbox had looked up last before ``when`` and that led to ``address``; None: it is not known."""
        with self._lock:
            mine = self._names.get(sandbox_id)
            found = () if mine is None else mine.get(address, ())
        return next((name for at, name in found if at <= when), None)
