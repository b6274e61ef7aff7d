"""The network of one sandbox: its egress policy and its client's options. Plain data and its rules; no I/O.

Further options of the published ``network`` object belong here. The store and the node's journal keep both with the sandbox, in the form
of ``to_json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Annotated, Any

from cloister.errors import InvalidRequestError
from cloister.model.addresses import is_address, is_host_name
from cloister.model.bounds import Text, count, json_tree, text, whole, within
from cloister.model.secret import Secret, conceal, reveal

__all__ = [
    "ALL_ADDRESSES",
    "MAX_ENTRIES",
    "MAX_SENT_BYTES",
    "NO_EGRESS",
    "PUBLIC_EGRESS",
    "EgressPolicy",
    "EgressProxy",
    "HeaderRule",
    "NetworkOptions",
    "check_host_mask",
    "is_ipv4_network",
]

ALL_ADDRESSES = "0.0.0.0/0"
MAX_ENTRIES = 1000
"""Entries of one list of a policy."""
MAX_SENT_BYTES = 128 << 10
_PORT = "${PORT}"
_MASK = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::(?P<port>[0-9]{1,5}))?\Z")


def is_ipv4_network(value: str) -> bool:
    """Whether ``value`` is an IPv4 network in its usual form, such as ``192.0.2.0/24``; one address is a /32."""
    try:
        return str(IPv4Network(value)) == value
    except ValueError:
        return False


Network = Annotated[str, whole(is_ipv4_network)]
Address = Annotated[str, whole(lambda value: is_ipv4_network(f"{value}/32"))]
HostPattern = Annotated[str, text(255)]
"""A pattern of :mod:`cloister.model.host_patterns`, in lower case."""


@dataclass(frozen=True, kw_only=True)
class EgressProxy:
    """The SOCKS5 proxy of a client (RFC 1928, RFC 1929), through which all TCP connections of its sandbox leave."""

    address: Annotated[str, text(300)]
    """``host:port`` in lower case."""
    username: Annotated[str, text(255)] | None = None
    password: Annotated[Secret, text(255)] | None = None
    tls: bool = False
    """Whether the connection to the proxy is TLS, of version 1.2 or newer, with a verified certificate."""
    server_name: Annotated[str, text(253)] | None = None
    """The name in the proxy's certificate; None: the address's host."""
    ca_certs: Annotated[str, text(8192)] | None = None
    """Certificates (PEM) that are trusted for the proxy instead of the host's."""


@dataclass(frozen=True, kw_only=True)
class HeaderRule:
    """Headers that requests to a host get on their way out of a sandbox."""

    host: Annotated[str, text(128)]
    """A pattern of :mod:`cloister.model.host_patterns`, in lower case."""
    headers: Annotated[dict[str, str], count(0, 20), json_tree(64 << 10)]
    """Values by names; empty: the rule hides that of a wildcard, and its host's connections are left alone.

    A value may have the placeholders ``${e2b.secrets.NAME}`` and ``${e2b.identity.tokens.NAME}``, whose texts never come to the node: the
    egress process asks for them when a request leaves (:mod:`cloister.egresswire.values`).
    """


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """The destinations outside the server that a sandbox may connect to. The operator's settings allow and refuse networks for all.

    The code between the API and the network passes a policy on unread. For each connection the first that fits decides:

    1. a destination that no sandbox may reach (private networks, the host): refused;
    2. ``allow`` has its address, or ``names`` its name: passes;
    3. ``deny`` has its address, or ``public`` is false: refused;
    4. else it passes.
    """

    public: bool
    """False: all that is not allowed is refused, as if ``deny`` had every address."""
    allow: Annotated[tuple[Network, ...], count(0, MAX_ENTRIES)] = ()
    names: Annotated[tuple[HostPattern, ...], count(0, MAX_ENTRIES)] = ()
    """Names that connections to the ports 80 and 443 may ask for (Host, SNI). They open no other port, no UDP and no address."""
    deny: Annotated[tuple[Network, ...], count(0, MAX_ENTRIES)] = ()
    dns_servers: Annotated[tuple[Address, ...], count(0, 10)] | None = None
    """IPv4 addresses of resolvers that look up the names of a sandbox with ``names``; None: the server's."""
    rules: Annotated[tuple[HeaderRule, ...], count(0, 64)] = ()
    proxy: EgressProxy | None = None

    @property
    def denies_all(self) -> bool:
        """Whether every address that ``allow`` does not have is refused."""
        return not self.public or ALL_ADDRESSES in self.deny

    @property
    def allows_all(self) -> bool:
        """Whether every address is allowed, whatever is denied."""
        return ALL_ADDRESSES in self.allow or (self.public and not self.deny)

    @property
    def is_closed(self) -> bool:
        """Whether the sandbox may connect to no address at all, the resolver's included."""
        return self.denies_all and not self.allow and not self.names

    @property
    def resolves(self) -> bool:
        """Whether the sandbox may look up names: all of them, or those of ``names`` if :attr:`needs_gate`."""
        return bool(self.names) or not self.denies_all or self.allows_all

    @property
    def is_limited_to_names(self) -> bool:
        """Whether it may reach names, and beside them only the addresses of ``allow``."""
        return bool(self.names) and self.denies_all and not self.allows_all

    @property
    def needs_gate(self) -> bool:
        """Whether connections must pass through the egress process, because the kernel cannot decide about them or change them."""
        return bool(self.names or self.rules) or self.proxy is not None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, the proxy's password included; :meth:`from_json` reads it back. Terms that restrict nothing are left out."""
        found: dict[str, Any] = {"public": self.public}
        for name in ("allow", "names", "deny"):
            if getattr(self, name):
                found[name] = list(getattr(self, name))
        if self.dns_servers is not None:
            found["dns_servers"] = list(self.dns_servers)
        if self.rules:
            found["rules"] = [vars(rule) for rule in self.rules]
        if self.proxy is not None:
            found["proxy"] = {**vars(self.proxy), "password": reveal(self.proxy.password)}
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EgressPolicy:
        """The inverse of :meth:`to_json`. Raises: TypeError, KeyError: a policy with unknown terms must not be read as a weaker one."""
        if not isinstance(data["public"], bool):
            raise TypeError("an egress policy's public is not a boolean")
        fields = dict(data)
        if "rules" in fields:
            fields["rules"] = tuple(HeaderRule(**rule) for rule in fields["rules"])
        for name in ("allow", "names", "deny", "dns_servers"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "proxy" in fields:
            fields["proxy"] = EgressProxy(**{**fields["proxy"], "password": conceal(fields["proxy"]["password"])})
        return cls(**fields)


PUBLIC_EGRESS = EgressPolicy(public=True)
"""All public addresses."""
NO_EGRESS = EgressPolicy(public=False)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options of one sandbox that its own node does not need."""

    host_mask: Text | None = None
    """The Host header for programs in the sandbox, perhaps with ``${PORT}``; None: the client's own."""
    https_ports: Annotated[tuple[Annotated[int, within(1, 65_535)], ...], count(0, 128)] = ()
    """Ports whose programs speak TLS: the ingress connects to them by it, without a look at the certificate."""
    sent: Annotated[dict[str, Any], json_tree(MAX_SENT_BYTES, depth=8)] | None = None
    """The ``network`` object as the client sent it last, without credentials, for answers to the client.

    Its two parts are ``ingress``, which only a creation sends, and ``egress``, which every update replaces.
    """
    tokens: Annotated[dict[str, str], json_tree(16 << 10)] = field(default_factory=dict)
    """Audiences of the sandbox's identity tokens, by the names that header rules have for them."""

    def to_json(self) -> dict[str, Any]:
        """The options that are set, as JSON-ready data; :meth:`from_json` reads it back."""
        found = {"host_mask": self.host_mask, "https_ports": list(self.https_ports), "sent": self.sent, "tokens": self.tokens or None}
        return {name: value for name, value in found.items() if value not in (None, [])}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkOptions:
        """The inverse of :meth:`to_json`. Ignores options of a newer release."""
        return cls(
            host_mask=data.get("host_mask"),
            https_ports=tuple(data.get("https_ports", ())),
            sent=data.get("sent"),
            tokens=data.get("tokens", {}),
        )


def check_host_mask(mask: str) -> str:
    """Return ``mask`` if it yields a host, perhaps with a port, for every port of a sandbox.

    Raises: InvalidRequestError: the result is not a valid Host header (RFC 9110 section 7.2).
    """
    match = _MASK.match(mask.replace(_PORT, "65535"))
    if match is None or not _is_host(match["host"]) or int(match["port"] or 1) not in range(1, 65_536):
        shown = mask[:100].encode("ascii", "backslashreplace").decode()
        raise InvalidRequestError(f"{shown!r} is not a host, perhaps with a port", hint="such as localhost or localhost:${PORT}")
    return mask


def _is_host(host: str) -> bool:
    return is_address(host[1:-1]) if host.startswith("[") else is_address(host) or (host.isascii() and is_host_name(host))
