"""Attacks on policies of addresses: lists that a client wrote, and what no list may open."""

from __future__ import annotations

from framework.bypass_lab import Attack
from framework.pretend_internet import HOST_ADDRESS, OTHER_HOST, PRIVATE_ADDRESS, RESOLVER, SHARED_HOST

__all__ = ["ADDRESS_ATTACKS", "FORBIDDEN"]

_ALL = "0.0.0.0/0"
_ONE = {"allow_out": [SHARED_HOST], "deny_out": [_ALL]}
_ALL_BUT_ONE = {"deny_out": [f"{OTHER_HOST}/32"]}
_NOTHING = {"deny_out": [_ALL]}
_FORBIDDEN_RANGES = ("10.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "168.63.129.16", "192.168.0.0/16", HOST_ADDRESS)
FORBIDDEN = {"allow_out": [*_FORBIDDEN_RANGES, PRIVATE_ADDRESS, _ALL]}
"""A policy that allows what no client may allow."""

_BY_LISTS = (
    Attack("an_address_that_no_list_allows", "tcp('{OTHER}', 80, get('evil.example', PATH))", _ONE),
    Attack("a_neighbour_of_an_allowed_address", "tcp('198.51.100.80', 80, get('httpbin.org', PATH))", _ONE, unseen="198.51.100.80"),
    Attack("an_address_that_a_list_denies", "tcp('{OTHER}', 80, get('evil.example', PATH))", _ALL_BUT_ONE),
    Attack("a_denied_address_by_tls", "tls('{OTHER}', 'api.example.net', get('api.example.net', PATH))", _ALL_BUT_ONE),
    Attack("a_denied_address_by_udp", "udp('{OTHER}', 7777, b'hello')", _ALL_BUT_ONE),
    Attack("a_denied_address_by_icmp", "raw(1, '{OTHER}', bytes.fromhex('0800f7ff00000000'))", _ALL_BUT_ONE, answer=r""),
    Attack("a_denied_address_by_sctp", "raw(132, '{OTHER}', bytes(32))", _ALL_BUT_ONE, answer=r""),
    Attack("a_denied_address_in_ipv6", "tcp('::ffff:{OTHER}', 80, get('x', PATH), family=socket.AF_INET6)", _ALL_BUT_ONE),
    Attack("a_denied_address_in_fragments", "udp('{OTHER}', 7777, b'x' * 4000)", _ALL_BUT_ONE),
    Attack("any_address_of_a_closed_network", "tcp('{SHARED}', 80, get('api.example.net', PATH))", _NOTHING, unseen=SHARED_HOST),
    Attack("the_resolver_of_a_closed_network", "dns(resolver(), 'evil.example')", _NOTHING, answer=r"closed|code 5"),
    Attack("a_foreign_resolver_of_a_closed_network", "dns('{RESOLVER}', 'evil.example')", _NOTHING, unseen=RESOLVER),
)

_BY_ALLOWED_PRIVATE_RANGES = (
    Attack("a_private_address_that_it_allows", "tcp('{PRIVATE}', 80, get('x', PATH))", FORBIDDEN, unseen=PRIVATE_ADDRESS),
    Attack("a_private_address_by_udp", "udp('{PRIVATE}', 7777, b'hello')", FORBIDDEN, unseen=PRIVATE_ADDRESS),
    Attack("the_hosts_own_address", "tcp('{HOST}', {HOST_PORT})", FORBIDDEN),
    Attack("the_host_by_the_zero_address", "tcp('0.0.0.0', {HOST_PORT})", FORBIDDEN),
    Attack("the_host_by_an_address_of_its_network", "tcp('0.0.0.1', {HOST_PORT})", FORBIDDEN),
    Attack("the_metadata_service", "tcp('169.254.169.254', 80, get('x', PATH))", FORBIDDEN),
    Attack("a_clouds_metadata_service_in_shared_space", "tcp('100.100.100.200', 80, get('x', PATH))", FORBIDDEN),
    Attack("a_clouds_platform_service", "tcp('168.63.129.16', 80, get('x', PATH))", FORBIDDEN),
    Attack("a_neighbours_address", "tcp('{NEIGHBOUR}', 49983, get('x', '/health'))", FORBIDDEN),
    Attack("the_gateways_ports", "[tcp('{GATEWAY}', port) for port in (22, 80, 443, 8080, 49983)]", FORBIDDEN, answer=r"(?!.*open)"),
    Attack("the_egress_processs_ports", "[tcp('{GATEWAY}', port) for port in (15001, 15053)]", FORBIDDEN, answer=r"(?!.*open)"),
    Attack("the_egress_processs_port_by_udp", "udp('{GATEWAY}', 15053, question('api.example.net'))"),
    Attack("multicast", "udp('224.0.0.1', 7777, b'hello')", FORBIDDEN),
    Attack("broadcast", "udp('255.255.255.255', 7777, b'hello')", FORBIDDEN),
)

ADDRESS_ATTACKS = (*_BY_LISTS, *_BY_ALLOWED_PRIVATE_RANGES)
