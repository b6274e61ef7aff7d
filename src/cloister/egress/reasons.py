"""Why the egress process refuses a connection or a look-up of a name, in records and logs. docs/network.md explains each.

The kernel's reasons are in :mod:`cloister.network.refusals`. A request that is refused within a connection has ``request_refused_`` and
the status of its answer, and a connection that a list refuses has the list's entry.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Reason"]

Reason = Literal[
    "address_not_allowed",
    "closed",
    "connect_method",
    "connection_refused",
    "encrypted_client_hello",
    "head_too_long",
    "malformed_head",
    "malformed_target",
    "malformed_tls",
    "name_not_allowed",
    "name_not_found",
    "no_dialer",
    "no_interceptor",
    "no_internet",
    "no_name",
    "no_name_in_time",
    "not_allowed",
    "not_http",
    "not_public",
    "proxy_broke_off",
    "proxy_refused",
    "proxy_refused_credentials",
    "proxy_speaks_no_socks5",
    "proxy_tls_failed",
    "proxy_unreachable",
    "resolver_failed",
    "several_hosts",
    "timed_out",
    "tls_failed",
    "too_many_connections",
    "too_many_lookups",
    "unreachable",
    "untrusted_certificate",
]
