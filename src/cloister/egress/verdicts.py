"""What a sandbox's policy says about one connection. Pure.

The order is that of :class:`~cloister.model.network.EgressPolicy`. The kernel has decided about addresses before, and decides again when
the egress process connects; this is the part that needs a name, and what a proxy outside must not be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cloister.egress.reasons import Reason
from cloister.model.host_patterns import NamePatterns
from cloister.model.network import EgressPolicy, HeaderRule
from cloister.network.egress import REFUSED

__all__ = ["NAME_PORTS", "Judge", "Networks", "Verdict", "refused"]

NAME_PORTS = {80: "http", 443: "tls"}
"""The ports where a connection asks for a name, and how."""


@dataclass(frozen=True)
class Verdict:
    """Whether a connection passes. ``rule`` is the part of the policy that decided, or a reason of a refusal."""

    is_allowed: bool
    rule: str
    is_by_name: bool = False
    """The name is allowed and not the address: connect to what the server resolves."""


def refused(reason: Reason) -> Verdict:
    """The verdict of a refusal that no list made."""
    return Verdict(is_allowed=False, rule=reason)


class Networks:
    """A list of networks, for a fast search."""

    def __init__(self, networks: Iterable[IPv4Network]) -> None:
        self._by_length: dict[int, set[int]] = {}
        for network in networks:
            self._by_length.setdefault(network.prefixlen, set()).add(int(network.network_address))
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, address: IPv4Address) -> IPv4Network | None:
        """The narrowest network that has ``address``."""
        number = int(address)
        for length in self._lengths:
            base = number >> (32 - length) << (32 - length)
            if base in self._by_length[length]:
                return IPv4Network((base, length))
        return None


class Judge:
    """A policy, prepared for many questions."""

    def __init__(self, policy: EgressPolicy, private: tuple[IPv4Network, ...] = ()) -> None:
        """``private``: private networks that the operator lets sandboxes reach."""
        self.policy = policy
        self._private = Networks(private)
        self._allow = Networks(map(IPv4Network, policy.allow))
        self._deny = Networks(map(IPv4Network, policy.deny))
        self._names = NamePatterns(policy.names)
        self._rule_hosts = NamePatterns(rule.host for rule in policy.rules)
        self._rules = {rule.host.lower(): rule for rule in policy.rules}

    @property
    def allows_all_public(self) -> bool:
        """Whether no address is refused but those that no sandbox may reach."""
        return self.policy.public and not self.policy.deny

    def is_private(self, address: IPv4Address) -> bool:
        """Whether no sandbox may reach ``address``."""
        return _REFUSED.find(address) is not None and self._private.find(address) is None

    def needs_name(self, address: IPv4Address, port: int) -> bool:
        """Whether the name of a connection may change what happens to it."""
        if port not in NAME_PORTS or self.is_private(address):
            return False
        return bool(self.policy.rules) or (bool(self.policy.names) and self._allow.find(address) is None)

    def judge(self, address: IPv4Address, port: int, name: str | None) -> Verdict:
        """About a connection to ``address`` that asks for ``name``."""
        if self.is_private(address):
            return refused("not_public")
        if found := self._allow.find(address):
            return Verdict(is_allowed=True, rule=f"allowOut {found}")
        if name is not None and port in NAME_PORTS and (pattern := self._names.find(name)):
            return Verdict(is_allowed=True, rule=f"allowOut {pattern}", is_by_name=True)
        if found := self._deny.find(address):
            return Verdict(is_allowed=False, rule=f"denyOut {found}")
        if not self.policy.public:
            return refused("no_internet")
        return Verdict(is_allowed=True, rule="public")

    def allows_name(self, name: str) -> bool:
        """Whether ``name`` is among the names of the policy."""
        return self._names.find(name) is not None

    def rule_for(self, name: str | None) -> HeaderRule | None:
        """The header rule for requests to ``name``. One without headers hides a wildcard's, and is none itself."""
        host = self._rule_hosts.find(name) if name else None
        rule = None if host is None else self._rules[host]
        return rule if rule is not None and rule.headers else None


_REFUSED = Networks(REFUSED)
