"""Reads the ``network`` of a creation and of ``PUT /sandboxes/{sandbox_id}/network``, and renders it for answers. Pure.

The contract is the published one. It is stricter in one point: an entry of ``allowOut`` that is neither an address nor a possible name is
refused, because it would allow nothing. IPv6 networks are valid and have no effect, because sandboxes have no IPv6.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Any

from cloister.api.fields import Fields, shown
from cloister.api.header_rules import parse_rules
from cloister.api.proxy_fields import parse_proxy
from cloister.errors import InvalidRequestError
from cloister.model.bounds import json_tree
from cloister.model.host_patterns import is_pattern
from cloister.model.network import ALL_ADDRESSES, MAX_SENT_BYTES, EgressPolicy, NetworkOptions, check_host_mask
from cloister.model.sandbox import Sandbox
from cloister.protocol.agent import AGENT_PORT, AGENT_PORTS

__all__ = ["NetworkChoice", "NetworkUpdate", "parse_network", "parse_network_update", "render_internet", "render_network"]

_WHERE = "network."
_MAPPED_PREFIX = 96
"""Length of the prefix of IPv6 addresses that mean IPv4 ones (``::ffff:192.0.2.1``, RFC 4291 section 2.5.5.2)."""
_INTERNET = "allow_internet_access"
_INGRESS = ("allowPublicTraffic", "maskRequestHost", "httpsPorts")
"""Of a creation alone."""
_NO_DENIAL = (
    "network.allowOut has domains, so network.denyOut must have ALL_TRAFFIC ('0.0.0.0/0'): without it the domains would restrict nothing"
)


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """The network of a sandbox to be created."""

    egress: EgressPolicy | None
    """None: the client did not choose."""
    options: NetworkOptions
    public_traffic: bool


@dataclass(frozen=True, kw_only=True)
class NetworkUpdate:
    """A new egress policy for a sandbox that runs; its ingress stays."""

    egress: EgressPolicy
    sent: dict[str, Any]
    """The fields as the client sent them, without credentials."""


def parse_network(body: dict[str, Any] | None, allow_internet: bool | None) -> NetworkChoice:
    """Parse ``network`` and ``allow_internet_access`` of a creation. Raises: InvalidRequestError."""
    if body is None:
        egress = None if allow_internet is None else EgressPolicy(public=allow_internet)
        return NetworkChoice(egress=egress, options=NetworkOptions(), public_traffic=True)
    fields = Fields(body, _WHERE, is_strict=True)
    public_traffic = fields.take("allowPublicTraffic", bool, None)
    host_mask = fields.take("maskRequestHost", str, "")
    https_ports = _parse_https_ports(fields)
    egress, egress_sent = _parse_egress(fields, allow_internet)
    fields.end()
    ingress_sent: dict[str, Any] = {} if public_traffic is None else {"allowPublicTraffic": public_traffic}
    if host_mask:
        ingress_sent["maskRequestHost"] = _parse_host_mask(host_mask)
    if body.get("httpsPorts") is not None:
        ingress_sent["httpsPorts"] = list(https_ports)
    options = NetworkOptions(
        host_mask=host_mask or None, https_ports=https_ports, sent=_bounded({"ingress": ingress_sent, "egress": egress_sent})
    )
    return NetworkChoice(egress=egress if egress_sent else None, options=options, public_traffic=public_traffic is not False)


def parse_network_update(body: object) -> NetworkUpdate:
    """Parse the body of an update. Raises: InvalidRequestError."""
    fields = Fields(body, _WHERE, is_strict=True)
    for name in _INGRESS:
        if fields.take_any(name) not in (None, "", []):
            raise InvalidRequestError(f"network.{name} is fixed at a sandbox's creation", hint="an update changes outgoing connections")
    egress, sent = _parse_egress(fields, fields.take(_INTERNET, bool, None))
    fields.end()
    return NetworkUpdate(egress=egress, sent=_bounded(sent))


def _bounded(sent: dict[str, Any]) -> dict[str, Any]:
    json_tree(MAX_SENT_BYTES, depth=8)(sent, "network")
    return sent


def _parse_egress(fields: Fields, allow_internet: bool | None) -> tuple[EgressPolicy, dict[str, Any]]:
    """The policy, and the fields as they were sent."""
    sent: dict[str, Any] = {} if allow_internet is None else {_INTERNET: allow_internet}
    allow_out, deny_out = fields.take_optional_list("allowOut"), fields.take_optional_list("denyOut")
    dns_servers = fields.take_optional_list("dnsServers")
    rules, rules_sent = parse_rules(fields)
    proxy, proxy_sent = parse_proxy(fields)
    allow, names = _parse_allowed(allow_out or ())
    deny = _networks(_denied(entry) for entry in deny_out or ())
    if names and ALL_ADDRESSES not in (deny_out or ()):
        raise InvalidRequestError(_NO_DENIAL)
    shown_fields = {"allowOut": allow_out, "denyOut": deny_out, "dnsServers": dns_servers}
    sent |= {name: list(value) for name, value in shown_fields.items() if value is not None}
    sent |= {name: value for name, value in (("rules", rules_sent), ("egressProxy", proxy_sent)) if value is not None}
    policy = EgressPolicy(
        public=allow_internet is not False,
        allow=allow,
        names=names,
        deny=deny,
        dns_servers=None if dns_servers is None else _parse_dns_servers(dns_servers),
        rules=rules,
        proxy=proxy,
    )
    return policy, sent


def _parse_allowed(entries: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The networks and the names of ``allowOut``."""
    networks, names = [], []
    for entry in entries:
        if (network := _parse_network(entry)) is not None:
            networks.append(network)
        elif is_pattern(entry):
            names.append(entry.lower())
        else:
            hint = "an entry is an IP address, a CIDR, a name, '*.' and a name, or '*': without a scheme, a port or a dot at its end"
            raise InvalidRequestError(f"invalid allowed address {shown(entry)}", hint=hint)
    return _networks(networks), tuple(dict.fromkeys(names))


def _denied(entry: str) -> IPv4Network | IPv6Network:
    if (network := _parse_network(entry)) is None:
        raise InvalidRequestError(f"invalid denied CIDR {shown(entry)}", hint="an entry is an IP address or a CIDR; names cannot be denied")
    return network


def _parse_network(text: str) -> IPv4Network | IPv6Network | None:
    """The network that an address or a CIDR means; None: it is neither, or the unspecified address."""
    _, slash, prefix = text.partition("/")
    if "%" in text or (slash and not (prefix.isascii() and prefix.isdecimal())):  # Python also reads zones and netmasks
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    return None if network.network_address.is_unspecified and network.prefixlen else network


def _networks(networks: Any) -> tuple[str, ...]:
    """The IPv4 networks among these, in their usual form and without repetitions."""
    return tuple(dict.fromkeys(str(one) for one in map(_as_ipv4, networks) if one is not None))


def _as_ipv4(network: IPv4Network | IPv6Network) -> IPv4Network | None:
    if isinstance(network, IPv4Network):
        return network
    mapped = network.network_address.ipv4_mapped
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return None
    return IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))


def _parse_dns_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    for server in servers:
        try:
            IPv4Address(server)
        except ValueError as error:
            raise InvalidRequestError(f"network.dnsServers: {shown(server)} is not an IPv4 address") from error
    return tuple(dict.fromkeys(servers))


def _parse_https_ports(fields: Fields) -> tuple[int, ...]:
    ports = fields.take_items("httpsPorts")
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535:
            raise InvalidRequestError("network.httpsPorts must be a list of ports from 1 to 65535")
        if port in AGENT_PORTS:
            whose = "the sandbox's own API" if port == AGENT_PORT else "the code interpreter"
            raise InvalidRequestError(f"network.httpsPorts must not have {port}, which is the port of {whose}")
    if len(set(ports)) < len(ports):
        raise InvalidRequestError("network.httpsPorts must have each port once")
    return tuple(ports)


def _parse_host_mask(text: str) -> str:
    try:
        return check_host_mask(text)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"network.maskRequestHost: {error.message}", hint=error.hint) from error


def render_network(row: Sandbox) -> dict[str, Any] | None:
    """``SandboxNetworkConfig`` of the contract, as the client sent it; None if it sent none."""
    sent = row.network.sent
    if sent is not None and "ingress" in sent:
        ingress = sent["ingress"]
    else:  # the row is of an older release, or its creation had no network
        ingress = {"allowPublicTraffic": False} if row.traffic_token is not None else {}
        if row.network.host_mask is not None:
            ingress["maskRequestHost"] = row.network.host_mask
    if sent is None and not ingress:
        return None
    egress = (sent or {}).get("egress") or {}
    return {**ingress, **{name: value for name, value in egress.items() if name != _INTERNET}}


def render_internet(row: Sandbox) -> bool | None:
    """``allowInternetAccess`` of the contract: the client's last choice; None: it made none."""
    sent = row.network.sent
    if sent is not None and "egress" in sent:
        chosen: bool | None = sent["egress"].get(_INTERNET)
        return chosen
    return None if row.egress is None else row.egress.public
