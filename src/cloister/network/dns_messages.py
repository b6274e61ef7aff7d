"""DNS messages, as far as this server reads and writes them: questions, and addresses as the answer to one. Pure.

Source: RFC 1035 section 4; RFC 9460 (HTTPS and SVCB records, which carry the keys of encrypted ClientHellos).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from cloister.model.host_patterns import clean_name

__all__ = [
    "AAAA",
    "HEADER_BYTES",
    "HTTPS",
    "MAX_ADDRESSES",
    "NXDOMAIN",
    "REFUSED",
    "SVCB",
    "A",
    "Answer",
    "MessageError",
    "Question",
    "is_query",
    "make_query",
    "parse_answer",
    "parse_question",
    "question",
    "render_answer",
]

A, CNAME, AAAA, SVCB, HTTPS = 1, 5, 28, 64, 65
NXDOMAIN, REFUSED = 3, 5
MAX_ADDRESSES = 12
"""So many fit in an answer of 512 bytes, whatever the name."""
HEADER_BYTES = 12
_MAX_QUERY_BYTES = 4096
"""A query has one question of at most 259 bytes, and a few options; TCP would take 64 KiB of questions from a sandbox."""
_IN = 1
_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
"""Of a record after its name: type, class, time to live, length of the data."""
_IS_ANSWER, _IS_TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_MAX_POINTERS, _MAX_NAME, _MAX_RECORDS, _MAX_ALIASES = 32, 255, 200, 16


class MessageError(Exception):
    """A malformed message, or an answer to another question."""


@dataclass(frozen=True)
class Question:
    """The one question of a query."""

    name: str | None
    """In lower case, without the dot at its end; None: no host has such a name."""
    kind: int
    """The type that is asked for."""


@dataclass(frozen=True)
class Answer:
    """What a resolver says about a name's addresses."""

    code: int
    addresses: tuple[IPv4Address, ...]
    lifetime_s: int
    """The shortest of the records that led to the addresses; 0 without any."""
    is_truncated: bool


def question(message: bytes) -> bytes:
    """The question section; empty if it is missing or malformed."""
    position = HEADER_BYTES
    try:
        for _ in range(struct.unpack_from("!H", message, 4)[0]):
            while message[position]:
                if message[position] > 63:
                    return b""
                position += message[position] + 1
            position += 5
    except (struct.error, IndexError):
        return b""
    return message[HEADER_BYTES:position] if position <= len(message) else b""


def is_query(message: bytes) -> bool:
    """Whether ``message`` has the form of a query."""
    return HEADER_BYTES <= len(message) <= _MAX_QUERY_BYTES and not message[2] & 0x80 and bool(question(message))


def parse_question(message: bytes) -> Question:
    """The question of a query of class IN. Raises: MessageError."""
    section = question(message)
    _, flags, count, *_ = _HEADER.unpack_from(message) if section else (0, 0, 0)
    if flags & (_IS_ANSWER | _OPCODE) or count != 1:
        raise MessageError("not one question")
    kind, klass = struct.unpack("!2H", section[-4:])
    if klass != _IN:
        raise MessageError("not of class IN")
    return Question(clean_name(_name(section, 0)[0]), kind)


def make_query(number: int, name: str, kind: int) -> bytes:
    """A query for a host name. ``number`` is its id."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, _IN)


def parse_answer(message: bytes, name: str) -> Answer:
    """The addresses of ``name``; aliases are followed within the message.

    Raises: MessageError: it is malformed, or answers another question.

    Records that do not belong to the name or its aliases are left out.
    """
    try:
        _, flags, questions, count, *_ = _HEADER.unpack_from(message)
        asked, at = _name(message, _HEADER.size)
        kind, klass = struct.unpack_from("!2H", message, at)
        if not flags & _IS_ANSWER or questions != 1 or (asked.lower(), kind, klass) != (name.encode(), A, _IN) or count > _MAX_RECORDS:
            raise MessageError("an answer to another question")
        records = _records(message, at + 4, count)
    except (struct.error, IndexError):
        raise MessageError("too short") from None
    aliases = {owner: (target, lifetime) for owner, kind, target, lifetime in records if kind == CNAME}
    owner, lifetimes = name.encode(), []
    for _ in range(_MAX_ALIASES):
        if owner not in aliases:
            break
        owner, lifetime = aliases[owner]
        lifetimes.append(lifetime)
    found = [(IPv4Address(data), lifetime) for at_owner, kind, data, lifetime in records if kind == A and at_owner == owner]
    lifetimes += [lifetime for _, lifetime in found]
    addresses = tuple(dict.fromkeys(address for address, _ in found))[:MAX_ADDRESSES]
    return Answer(flags & 0xF, addresses, min(lifetimes) if found else 0, bool(flags & _IS_TRUNCATED))


def render_answer(query: bytes, addresses: Sequence[IPv4Address], lifetime_s: int, code: int = 0) -> bytes:
    """The answer to ``query``, which has one question, in less than 512 bytes."""
    _, end = _name(query, _HEADER.size)
    number, flags, *_ = _HEADER.unpack_from(query)
    answers = b"".join(b"\xc0\x0c" + _FIXED.pack(A, _IN, lifetime_s, 4) + address.packed for address in addresses)
    flags = _IS_ANSWER | _RECURSION_AVAILABLE | (flags & _RECURSION_DESIRED) | code
    return _HEADER.pack(number, flags, 1, len(addresses), 0, 0) + query[_HEADER.size : end + 4] + answers


def _records(message: bytes, at: int, count: int) -> list[tuple[bytes, int, bytes, int]]:
    """The first ``count`` records of class IN: owner, type, data (of an alias: its target's name), time to live."""
    found = []
    for _ in range(count):
        owner, at = _name(message, at)
        kind, klass, lifetime, length = _FIXED.unpack_from(message, at)
        at += _FIXED.size
        data = message[at : at + length]
        if len(data) < length or (kind == A and length != 4):
            raise MessageError("the data of a record")
        if kind == CNAME:
            data = _name(message, at)[0].lower()
        if klass == _IN:
            found.append((owner.lower(), kind, data, 0 if lifetime >> 31 else lifetime))
        at += length
    return found


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """The name at a place, its labels joined by dots, and the place behind it. A dot within a label makes no name. Raises: IndexError."""
    labels: list[bytes] = []
    behind, jumps, size = 0, 0, 0
    while length := message[at]:
        if length >= 0xC0:
            behind = behind or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
            jumps += 1
            if jumps > _MAX_POINTERS:
                raise MessageError("a loop of pointers")
            continue
        label = message[at + 1 : at + 1 + length]
        size += length + 1
        if length > 63 or len(label) < length or b"." in label or size > _MAX_NAME:
            raise MessageError("a label")
        labels.append(label)
        at += 1 + length
    return b".".join(labels), behind or at + 1
