"""A connection that a sandbox made or tried to make. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cloister.model.bounds import Time, count, matching

__all__ = ["MAX_ADDRESSES", "ConnectionRecord", "LookUp"]

MAX_ADDRESSES = 64
"""Of one look-up."""
_Address = Annotated[str, matching(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}")]


@dataclass(frozen=True, kw_only=True)
class ConnectionRecord:
    """One connection, as the sandbox's log and the API tell it once it has ended or was refused.

    Under a flood one record stands for several connections of the same kind (``count``).
    """

    sandbox_id: str
    at: float
    """When it began, in seconds since the epoch."""
    protocol: str
    """``tcp``, ``udp``, ``icmp`` or a number (RFC 1700)."""
    address: str
    """The destination; empty if only the name is known."""
    port: int
    """0 where the protocol has no ports."""
    name: str | None = None
    """The name that the connection asked for (SNI, Host), or that the sandbox looked up before; None: not known."""
    is_looked_up: bool = False
    """Whether ``name`` is the one that the sandbox had looked up last before the connection and that led to its address."""
    verdict: Literal["allowed", "refused"]
    rule: str
    """The part of the policy that decided: ``public``, ``allowOut ENTRY``, ``denyOut ENTRY``.

    A refusal may have a reason instead. Those of the kernel are ``REASONS`` in :mod:`cloister.network.refusals`. Those of the egress
    process are words, such as ``no_name``, ``name_not_found`` or ``proxy_refused``, and ``request_refused_STATUS``: docs/howto/network.md
    lists them. ``others``: a sum of connections with several rules.
    """
    duration_s: float | None = None
    sent_bytes: int = 0
    """From the sandbox, with the headers of packets where the kernel counts."""
    received_bytes: int = 0
    count: int = 1


@dataclass(frozen=True)
class LookUp:
    """An answer of a resolver to a sandbox."""

    client: _Address
    """The sandbox's address (IPv4)."""
    at: Time
    """When it was given, in seconds since the epoch."""
    name: Annotated[str, matching(r"[0-9A-Za-z_.-]{1,253}")]
    addresses: Annotated[tuple[_Address, ...], count(1, MAX_ADDRESSES)]
