"""Chains, rules, sets and their elements by raw nfnetlink, as messages of one transaction.

Why not libnftables: it reads the ruleset before each change, 100,000 elements if 1,000 sandboxes have lists of 100 networks.
Owns the encoding; must not know the purpose of the rules. All objects are of family ``inet``. Pure: :mod:`cloister.linux.nftsets` sends.
Runs in: supervisor. Needs: no capability.
Source: <linux/netfilter/nf_tables.h>, net/netfilter/nf_tables_api.c, net/netfilter/nft_set_rbtree.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cloister.linux.netlink import NESTED, attribute

__all__ = [
    "Message",
    "Verdict",
    "add_byte_limit",
    "add_chain",
    "add_elements",
    "add_interval_set",
    "add_intervals",
    "add_packet_limit",
    "add_quota",
    "add_references",
    "add_rule",
    "delete_chain",
    "delete_elements",
    "delete_object",
    "delete_set",
    "flush_chain",
    "flush_set",
    "from_interface",
    "in_set",
    "to_interface",
    "verdict",
]

_NFTABLES = 10
_NEW_CHAIN, _DELETE_CHAIN, _NEW_RULE, _DELETE_RULE, _NEW_SET, _DELETE_SET = 3, 5, 6, 8, 9, 11
_NEW_ELEMENTS, _DELETE_ELEMENTS = 12, 14
_NEW_OBJECT, _DELETE_OBJECT = 18, 20
_QUOTA, _LIMIT = 2, 4
_PACKETS, _BYTES, _OVER = 0, 1, 1
_CREATE, _APPEND = 0x400, 0x800
_INET = 1
_INTERFACE_NAME = 16
_JUMP, _GOTO = -3, -4
_INTERVAL_SET, _INTERVAL_END = 0x4, 0x1
_IPV4_ADDRESS = 7  # nft's number of the type ipv4_addr, for listings
_NETWORK_HEADER, _IPV4_SOURCE, _IPV4_DESTINATION = 1, 12, 16
_META_IIFNAME, _META_OIFNAME = 6, 7
_REGISTER = 1
_VERDICT_REGISTER = 0
_MESSAGE_INTERVALS = 1000  # the size of a netlink attribute is a number of 16 bits
_LAST_ADDRESS = 0xFFFFFFFF


@dataclass(frozen=True)
class Message:
    """A message of a transaction: the kind is nf_tables' own number."""

    kind: int
    flags: int
    body: bytes

    @property
    def type(self) -> int:
        """The number of the message in netlink."""
        return (_NFTABLES << 8) | self.kind


@dataclass(frozen=True)
class Verdict:
    """``jump`` to a chain and come back, or go there for good."""

    chain: str
    is_jump: bool = False

    def encode(self) -> bytes:
        """As the value of a verdict map or of an expression."""
        code = attribute(1, struct.pack(">i", _JUMP if self.is_jump else _GOTO))
        return attribute(2 | NESTED, code + attribute(2, _text(self.chain)))


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _long(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def _message(kind: int, flags: int, attributes: bytes) -> Message:
    return Message(kind, flags, struct.pack(">BBH", _INET, 0, 0) + attributes)


def add_chain(table: str, chain: str) -> Message:
    """A chain without a hook; it may exist."""
    return _message(_NEW_CHAIN, _CREATE, attribute(1, _text(table)) + attribute(3, _text(chain)))


def delete_chain(table: str, chain: str) -> Message:
    """Nothing may refer to it any more."""
    return _message(_DELETE_CHAIN, 0, attribute(1, _text(table)) + attribute(3, _text(chain)))


def flush_chain(table: str, chain: str) -> Message:
    """Delete the rules of a chain, which must exist."""
    return _message(_DELETE_RULE, 0, attribute(1, _text(table)) + attribute(2, _text(chain)))


def add_rule(table: str, chain: str, expressions: Sequence[bytes]) -> Message:
    """A rule at the chain's end."""
    listed = attribute(4 | NESTED, b"".join(attribute(1 | NESTED, one) for one in expressions))
    return _message(_NEW_RULE, _CREATE | _APPEND, attribute(1, _text(table)) + attribute(2, _text(chain)) + listed)


def add_interval_set(table: str, name: str, number: int) -> Message:
    """A set of IPv4 addresses in intervals; it may exist. ``number`` must differ among the sets that a transaction makes."""
    kinds = _number(3, _INTERVAL_SET) + _number(4, _IPV4_ADDRESS) + _number(5, 4)
    return _message(_NEW_SET, _CREATE, attribute(1, _text(table)) + attribute(2, _text(name)) + kinds + _number(10, number))


def delete_set(table: str, name: str) -> Message:
    """No rule may use it any more."""
    return _message(_DELETE_SET, 0, attribute(1, _text(table)) + attribute(2, _text(name)))


def flush_set(table: str, name: str) -> Message:
    """Delete the elements of a set, which must exist."""
    return _message(_DELETE_ELEMENTS, 0, attribute(1, _text(table)) + attribute(2, _text(name)))


def add_intervals(table: str, name: str, intervals: Sequence[tuple[int, int]]) -> Iterator[Message]:
    """Add (first, last) addresses to a set of :func:`add_interval_set`; they must neither overlap nor touch."""
    for at in range(0, len(intervals), _MESSAGE_INTERVALS):
        elements: list[bytes] = []
        for first, last in intervals[at : at + _MESSAGE_INTERVALS]:
            elements.append(_key(struct.pack(">I", first)))
            if last != _LAST_ADDRESS:  # an interval without an end goes on to the last address
                elements.append(_number(3, _INTERVAL_END) + _key(struct.pack(">I", last + 1)))
        yield _elements(_NEW_ELEMENTS, _CREATE, table, name, elements)


def add_elements(table: str, name: str, keys: Iterable[bytes], value: Verdict | None = None) -> Message:
    """Elements of a set, or of a verdict map with that ``value``. They may exist, in a map with the same value."""
    data = b"" if value is None else attribute(2 | NESTED, value.encode())
    return _elements(_NEW_ELEMENTS, _CREATE, table, name, [_key(key) + data for key in keys])


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> Message:
    """They must exist."""
    return _elements(_DELETE_ELEMENTS, 0, table, name, [_key(key) for key in keys])


def add_references(table: str, name: str, keys: Iterable[bytes], object_name: str) -> Message:
    """Elements of a map that leads to limits or quotas. They must not exist with another object."""
    reference = attribute(9, _text(object_name))
    return _elements(_NEW_ELEMENTS, _CREATE, table, name, [_key(key) + reference for key in keys])


def add_packet_limit(table: str, name: str, *, per_s: int, burst: int) -> Message:
    """A limit that packets are over if more than ``per_s`` come in a second, after the first ``burst``."""
    return _add_limit(table, name, per_s, burst, _PACKETS)


def add_byte_limit(table: str, name: str, *, per_s: int, burst: int) -> Message:
    """The same for bytes. The kernel adds those of one second to the burst."""
    return _add_limit(table, name, per_s, burst, _BYTES)


def _add_limit(table: str, name: str, per_s: int, burst: int, kind: int) -> Message:
    data = _long(1, per_s) + _long(2, 1) + _number(3, burst) + _number(4, kind) + _number(5, _OVER)
    return _message(_NEW_OBJECT, _CREATE, _object(table, name, _LIMIT) + attribute(4 | NESTED, data))


def add_quota(table: str, name: str, size_bytes: int) -> Message:
    """A quota that packets are over once so many bytes have passed."""
    data = _long(1, size_bytes) + _number(2, _OVER)
    return _message(_NEW_OBJECT, _CREATE, _object(table, name, _QUOTA) + attribute(4 | NESTED, data))


def delete_object(table: str, name: str, *, is_quota: bool) -> Message:
    """Delete a limit or a quota. No map may lead to it any more."""
    return _message(_DELETE_OBJECT, 0, _object(table, name, _QUOTA if is_quota else _LIMIT))


def _object(table: str, name: str, kind: int) -> bytes:
    return attribute(1, _text(table)) + attribute(2, _text(name)) + _number(3, kind)


def _key(key: bytes) -> bytes:
    return attribute(1 | NESTED, attribute(1, key))


def _elements(kind: int, flags: int, table: str, name: str, elements: Iterable[bytes]) -> Message:
    listed = b"".join(attribute(1 | NESTED, element) for element in elements)
    return _message(kind, flags, attribute(1, _text(table)) + attribute(2, _text(name)) + attribute(3 | NESTED, listed))


def _expression(name: str, data: bytes) -> bytes:
    return attribute(1, _text(name)) + attribute(2 | NESTED, data)


def verdict(value: Verdict) -> bytes:
    """The expression that ends a rule."""
    return _expression("immediate", _number(1, _VERDICT_REGISTER) + attribute(2 | NESTED, value.encode()))


def in_set(name: str, *, destination: bool) -> list[bytes]:
    """The packet's destination or source is in the set."""
    offset = _IPV4_DESTINATION if destination else _IPV4_SOURCE
    load = _number(1, _REGISTER) + _number(2, _NETWORK_HEADER) + _number(3, offset) + _number(4, 4)
    return [_expression("payload", load), _expression("lookup", attribute(1, _text(name)) + _number(2, _REGISTER))]


def from_interface(name: str) -> list[bytes]:
    """The packet came by that interface."""
    return _interface(_META_IIFNAME, name)


def to_interface(name: str) -> list[bytes]:
    """The packet leaves by that interface."""
    return _interface(_META_OIFNAME, name)


def _interface(key: int, name: str) -> list[bytes]:
    value = attribute(1, name.encode().ljust(_INTERFACE_NAME, b"\0"))
    compare = _number(1, _REGISTER) + _number(2, 0) + attribute(3 | NESTED, value)
    return [_expression("meta", _number(1, _REGISTER) + _number(2, key)), _expression("cmp", compare)]
