"""The link between supervisor and egress process: policies go in, acknowledgements and records of connections come out.

A unix stream socket pair, made by the supervisor; each message is one line of JSON. A new egress process gets ``begin``, one ``put`` for
each sandbox, and ``serve``. It accepts no connection before ``serve``. Later changes come one by one::

    {"begin": {"gateway": "10.200.32.1", "private": ["10.1.0.0/16"], "secret": "<64 hex digits>", "values": "/run/…/values.sock",
               "certificates": "<PEM>", "inspects": false}}
    {"id": 1, "put": {"address": "10.200.0.5", "sandbox_id": "…", "policy": {…}}}       replaces an earlier policy of the address
    {"id": 2, "serve": {}}
    {"id": 3, "forget": {"address": "10.200.0.5"}}
    {"done": 1}                                                                          in force from now on
    {"records": [{"sandbox_id": "…", …}], "lost": 0}
    {"look_ups": [["10.200.0.5", 1767225600.5, "api.example.com", ["198.51.100.7"]]]}

An acknowledged ``put`` or ``forget`` has cut the connections that are no longer allowed. The supervisor trusts nothing that comes out:
it takes records only for sandboxes of its own, within the bounds of :func:`parse_outcome`. The end of the socket ends the process.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cloister.errors import InvalidRequestError
from cloister.model.connection import MAX_ADDRESSES, ConnectionRecord, LookUp
from cloister.model.network import EgressPolicy
from cloister.model.secret import Secret

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_OUTCOME_BYTES",
    "MAX_RECORDS",
    "Begin",
    "Done",
    "Forget",
    "LookUps",
    "Message",
    "Put",
    "Records",
    "Serve",
    "parse_message",
    "parse_outcome",
    "render_begin",
    "render_done",
    "render_forget",
    "render_look_ups",
    "render_put",
    "render_records",
    "render_serve",
]

MAX_LINE_BYTES = 16 << 20
"""Of a line to the egress process. The largest policy has 64 rules of 64 KiB and four lists of 1,000 entries."""
MAX_OUTCOME_BYTES = 1 << 20
"""Of a line from the egress process."""
MAX_RECORDS = 500
"""In one line."""
_MAX_TEXT = 300
_MAX_NUMBER = 1 << 62
_VERDICTS = ("allowed", "refused")


@dataclass(frozen=True)
class Begin:
    """The facts that an egress process needs of its server."""

    gateway: IPv4Address
    """Where it listens, and where the server's resolver answers (port 53)."""
    private: tuple[IPv4Network, ...]
    """Private networks that the operator lets sandboxes reach."""
    secret: Secret
    """64 hex digits, the same after a restart. The keys of the sandboxes' certificate authorities are derived from it."""
    values: str
    """Path of the api process's socket for values of headers (:mod:`cloister.egresswire.values`)."""
    certificates: str = ""
    """Certificates (PEM) of the authorities that may certify upstreams."""
    inspects: bool = False
    """Whether TLS of sandboxes that are limited to names is opened without a header rule too."""


@dataclass(frozen=True)
class Put:
    """Follow ``policy`` for connections from ``address``."""

    number: int
    address: str
    sandbox_id: str
    policy: EgressPolicy


@dataclass(frozen=True)
class Forget:
    """Refuse connections from ``address``."""

    number: int
    address: str


@dataclass(frozen=True)
class Serve:
    """All policies are there: accept connections."""

    number: int


Message = Begin | Put | Forget | Serve


@dataclass(frozen=True)
class Done:
    """The message of that number is in force."""

    number: int


@dataclass(frozen=True)
class Records:
    """Connections that ended or were refused. ``lost``: how many more there were without a record."""

    records: tuple[ConnectionRecord, ...]
    lost: int = 0


@dataclass(frozen=True)
class LookUps:
    """Answers to questions of sandboxes."""

    look_ups: tuple[LookUp, ...]


def render_begin(begin: Begin) -> bytes:
    """As a line."""
    private = [str(network) for network in begin.private]
    facts = {"gateway": str(begin.gateway), "private": private, "values": begin.values, "certificates": begin.certificates}
    return _line({"begin": {**facts, "inspects": begin.inspects, "secret": begin.secret.revealed}})


def render_put(put: Put) -> bytes:
    """As a line."""
    return _line({"id": put.number, "put": {"address": put.address, "sandbox_id": put.sandbox_id, "policy": put.policy.to_json()}})


def render_forget(forget: Forget) -> bytes:
    """As a line."""
    return _line({"id": forget.number, "forget": {"address": forget.address}})


def render_serve(serve: Serve) -> bytes:
    """As a line."""
    return _line({"id": serve.number, "serve": {}})


def parse_message(line: bytes) -> Message:
    """A message of the supervisor. Raises: InvalidRequestError, whose text shows nothing of the line."""
    try:
        match json.loads(line):
            case {"begin": {"gateway": str(gateway), "private": list(private), "secret": str(secret), "values": str(values), **rest}}:
                networks = tuple(IPv4Network(network) for network in private)
                certificates, inspects = str(rest.get("certificates", "")), rest.get("inspects") is True
                return Begin(IPv4Address(gateway), networks, Secret(secret), values, certificates, inspects)
            case {"id": int(number), "put": {"address": str(address), "sandbox_id": str(sandbox_id), "policy": dict(policy)}}:
                return Put(number, str(IPv4Address(address)), sandbox_id, EgressPolicy.from_json(policy))
            case {"id": int(number), "forget": {"address": str(address)}}:
                return Forget(number, str(IPv4Address(address)))
            case {"id": int(number), "serve": dict()}:
                return Serve(number)
    except (ValueError, TypeError, KeyError):
        raise InvalidRequestError("a message to the egress process is malformed") from None  # its text may hold a password
    raise InvalidRequestError("a message to the egress process is unknown")


def render_done(number: int) -> bytes:
    """As a line."""
    return _line({"done": number})


def render_records(records: Records) -> bytes:
    """As a line. The caller sends at most :data:`MAX_RECORDS`."""
    return _line({"records": [vars(record) for record in records.records], "lost": records.lost})


def render_look_ups(found: LookUps) -> bytes:
    """As a line. The caller sends at most :data:`MAX_RECORDS`."""
    return _line({"look_ups": [[one.client, one.at, one.name, one.addresses] for one in found.look_ups]})


def parse_outcome(line: bytes) -> Done | Records | LookUps:
    """A message of the egress process, which may be in an attacker's hands. Raises: InvalidRequestError."""
    try:
        match json.loads(line):
            case {"done": int(number)}:
                return Done(number)
            case {"records": list(records), "lost": int(lost)} if len(records) <= MAX_RECORDS and 0 <= lost < _MAX_NUMBER:
                return Records(tuple(_record(record) for record in records), lost)
            case {"look_ups": list(found)} if len(found) <= MAX_RECORDS:
                return LookUps(tuple(_look_up(*one) for one in found))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError("a message of the egress process is malformed") from error
    raise InvalidRequestError("a message of the egress process is unknown")


_TEXTS = ("sandbox_id", "protocol", "address", "rule", "verdict")
_COUNTS = ("port", "sent_bytes", "received_bytes", "count")
_FIELDS = {field.name for field in fields(ConnectionRecord)}


def _record(data: Any) -> ConnectionRecord:
    """Raises: ValueError, TypeError."""
    if not isinstance(data, dict) or not data.keys() <= _FIELDS:
        raise TypeError("not a record")
    record = ConnectionRecord(**data)
    texts = [getattr(record, name) for name in _TEXTS] + ([record.name] if record.name is not None else [])
    if any(not isinstance(text, str) or len(text) > _MAX_TEXT or not text.isprintable() for text in texts):
        raise ValueError("a text of a record")
    counts = [getattr(record, name) for name in _COUNTS]
    if any(type(count) is not int or not 0 <= count < _MAX_NUMBER for count in counts) or record.port > 0xFFFF:
        raise ValueError("a number of a record")
    times = [record.at] + ([record.duration_s] if record.duration_s is not None else [])
    if any(type(time) not in (int, float) or not math.isfinite(time) or time < 0 for time in times):
        raise ValueError("a time of a record")
    if record.verdict not in _VERDICTS or record.count < 1 or record.is_looked_up is not False:
        raise ValueError("a verdict of a record")
    return record


def _look_up(client: Any, at: Any, name: Any, addresses: Any) -> LookUp:
    """Raises: ValueError, TypeError."""
    if type(at) not in (int, float) or not math.isfinite(at) or at < 0:
        raise ValueError("a time of a look-up")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_TEXT or not name.isprintable():
        raise ValueError("a name of a look-up")
    if not isinstance(addresses, list) or not 0 < len(addresses) <= MAX_ADDRESSES:
        raise ValueError("addresses of a look-up")
    return LookUp(str(IPv4Address(client)), at, name, tuple(str(IPv4Address(address)) for address in addresses))


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
