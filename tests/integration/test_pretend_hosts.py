"""The further hosts of the pretend internet do what tests of egress rely on."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord

from framework.client_hello import client_hello, quic_initial
from framework.network_lab import Namespace
from framework.pretend_internet import (
    OTHER_HOST,
    RESOLVER,
    SHARED_HOST,
    SOCKS_HOST,
    UNTRUSTED_HOST,
    Hosts,
    PretendInternet,
    pretend_internet,
)
from framework.pretend_socks import PASSWORD, USERNAME
from framework.waiting import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace that plays the host."""
    made = Namespace(tmp_path_factory.mktemp("lab") / "host")
    yield made
    made.close()


@pytest.fixture(scope="module")
def internet(host: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendInternet]:
    """The pretend internet of that host."""
    with pretend_internet(tmp_path_factory.mktemp("internet"), host) as made:
        yield made


@pytest.fixture(scope="module")
def hosts(internet: PretendInternet) -> Hosts:
    """Its further hosts."""
    return internet.hosts


def dig(host: Namespace, name: str, kind: str = "A", server: str = "198.51.100.53") -> DNSRecord:
    """The answer to a question."""
    with host.open_socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((server, 53))
        question = DNSRecord.question(name, kind)
        sock.send(question.pack())
        answer = DNSRecord.parse(sock.recv(4096))
        answer.asked_id = question.header.id
        return answer


def addresses(answer: DNSRecord) -> list[str]:
    """Those in an answer."""
    return [str(one.rdata) for one in answer.rr]


def curl(host: Namespace, internet: PretendInternet, url: str, *options: str) -> str:
    """The output of curl on the host. It is told the address of api.example.net."""
    known = ["--resolve", f"api.example.net:443:{SHARED_HOST}", "--resolve", f"api.example.net:80:{SHARED_HOST}"]
    return host.run(" ".join(["curl", "-sS", "--max-time", "10", "--cacert", str(internet.ca_file), *known, *options, f"'{url}'"]))


def tls(host: Namespace, internet: PretendInternet, address: str, name: str, port: int = 443, alpn: str = "http/1.1") -> ssl.SSLSocket:
    """A verified TLS connection."""
    context = ssl.create_default_context(cafile=str(internet.ca_file))
    context.set_alpn_protocols([alpn])
    sock = host.open_socket()
    try:
        sock.settimeout(5)
        sock.connect((address, port))
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def test_names_change_and_lie(host: Namespace, internet: PretendInternet) -> None:
    """Answers follow each other, wildcards answer, and an answer can be forged or empty."""
    assert addresses(dig(host, "api.example.net")) == addresses(dig(host, "WWW.example.net")) == [SHARED_HOST]
    internet.answer("rebound.example", SHARED_HOST, "10.0.0.1")
    assert [addresses(dig(host, "rebound.example")) for _ in range(3)] == [[SHARED_HOST], ["10.0.0.1"], ["10.0.0.1"]]
    internet.answer("*.tunnel.example", ["192.168.0.1", SHARED_HOST], ttl=0)
    assert addresses(dig(host, "secret.tunnel.example")) == ["192.168.0.1", SHARED_HOST]
    internet.answer("forged.example", SHARED_HOST, fault="id")
    forged = dig(host, "forged.example")
    assert forged.header.id != forged.asked_id
    internet.answer("forged.example", SHARED_HOST, fault="question")
    assert str(dig(host, "forged.example").q.qname) == "elsewhere.example."
    internet.answer("ech.example", SHARED_HOST, ech=True)
    assert b"\xfe\x0d" in dig(host, "ech.example", "HTTPS").pack()
    internet.forget("ech.example")
    assert dig(host, "ech.example").header.rcode == RCODE.NXDOMAIN
    assert ("secret.tunnel.example", "A") in internet.questions()


def test_the_foreign_resolver(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """It answers by UDP, TLS and HTTPS."""
    assert addresses(dig(host, "evil.example", server=RESOLVER)) == [OTHER_HOST]
    question = DNSRecord.question("evil.example").pack()
    with tls(host, internet, RESOLVER, "dns.example", 853) as connection, connection.makefile("rb") as file:
        connection.sendall(len(question).to_bytes(2, "big") + question)
        assert addresses(DNSRecord.parse(file.read(int.from_bytes(file.read(2), "big")))) == [OTHER_HOST]
    with tls(host, internet, RESOLVER, "dns.example") as connection, connection.makefile("rb") as file:
        head = f"POST /dns-query HTTP/1.1\r\nHost: dns.example\r\nContent-Length: {len(question)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + question)
        assert addresses(DNSRecord.parse(file.read().split(b"\r\n\r\n", 1)[1])) == [OTHER_HOST]
    assert ("evil.example", "A") in hosts.questions()


@pytest.mark.parametrize(
    ("url", "version", "options"),
    [
        ("http://api.example.net/headers", "1.1", ()),
        ("https://api.example.net/headers", "1.1", ("--http1.1",)),
        ("https://api.example.net/headers", "2", ("--http2",)),
        ("http://api.example.net/headers", "2", ("--http2-prior-knowledge",)),
    ],
)
def test_web_servers_reflect_requests(
    host: Namespace, internet: PretendInternet, hosts: Hosts, url: str, version: str, options: tuple[str, ...]
) -> None:
    """By each version of HTTP."""
    seen = json.loads(curl(host, internet, url, "-H", "X-Mine:1", *options))
    assert (seen["version"], seen["host"], seen["server"][0]) == (version, "api.example.net", SHARED_HOST)
    assert ["x-mine", "1"] in [[name.lower(), value] for name, value in seen["headers"]]
    assert hosts.requests()[-1] == seen


def test_web_servers_stream_count_and_redirect(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """A piece comes when the test lets it, and not before."""
    with tls(host, internet, SHARED_HOST, "api.example.net") as connection, connection.makefile("rb") as file:
        connection.sendall(b"GET /stream?n=2&size=5 HTTP/1.1\r\nHost: api.example.net\r\n\r\n")
        while file.readline() != b"\r\n":
            pass
        for _ in range(2):
            hosts.allow(1)
            assert [file.readline(), file.readline()] == [b"5\r\n", b"xxxxx\r\n"]
    counted = json.loads(curl(host, internet, "https://api.example.net/count", "--data-binary", "@/usr/bin/env"))
    assert counted["length"] == Path("/usr/bin/env").stat().st_size
    redirect = curl(
        host, internet, "http://api.example.net/redirect?to=https://evil.example/", "-o", "/dev/null", "-w", "'%{redirect_url}'"
    )
    assert redirect == "https://evil.example/"


def test_websockets(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """They tell their request, and echo."""
    from websockets.sync.client import connect

    with host.open_socket() as sock:
        sock.connect((SHARED_HOST, 80))
        with connect("ws://api.example.net/", sock=sock, additional_headers={"X-Mine": "1"}) as connection:
            assert ["x-mine", "1"] in [[name.lower(), value] for name, value in json.loads(connection.recv())["headers"]]
            for message in ("text", b"bytes"):
                connection.send(message)
                assert connection.recv() == message


def test_certificates(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """One host has a certificate of a stranger, one name is in no certificate."""
    for address, name in ((UNTRUSTED_HOST, "untrusted.example"), (SHARED_HOST, "misnamed.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            tls(host, internet, address, name)


@pytest.mark.parametrize("ech", [False, True])
def test_client_hellos(host: Namespace, internet: PretendInternet, hosts: Hosts, ech: bool) -> None:
    """A server answers a ClientHello with and without ECH, with and without SNI."""
    for name in ("api.example.net", None):
        with host.open_socket() as sock:
            sock.settimeout(5)
            sock.connect((SHARED_HOST, 443))
            hello = client_hello(name, ech=ech)
            assert (b"api.example.net" in hello) == (name is not None)
            sock.sendall(hello)
            assert sock.recv(5)[0] == 22, "a handshake record"


def test_quic_is_answered(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """Whoever gets datagrams to the server gets an answer."""
    with host.open_socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((SHARED_HOST, 443))
        for datagram in quic_initial("api.example.net", SHARED_HOST):
            sock.send(datagram)
        assert sock.recv(2048)[0] & 0xC0 == 0xC0, "a long header"


def test_echoes(host: Namespace, internet: PretendInternet, hosts: Hosts) -> None:
    """By TCP and UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with host.open_socket(kind) as sock:
            sock.settimeout(5)
            sock.connect((OTHER_HOST, 7777))
            sock.send(b"hello")
            assert sock.recv(10) == b"hello"


@pytest.mark.parametrize(
    ("proxy", "user"),
    [
        (f"socks5h://{SOCKS_HOST}:1080", ""),
        (f"socks5h://{USERNAME}:{PASSWORD}@{SOCKS_HOST}:1081", USERNAME),
    ],
)
def test_socks(host: Namespace, internet: PretendInternet, hosts: Hosts, proxy: str, user: str) -> None:
    """It connects by name, and knows whom it lets in."""
    assert json.loads(curl(host, internet, "http://www.example.net/headers", "--proxy", proxy))["host"] == "www.example.net"
    assert hosts.proxied()[-1] == {"host": "www.example.net", "port": 80, "user": user}
    hosts.refuse_proxied(refuse=True)
    with pytest.raises(AssertionError, match="SOCKS5"):
        curl(host, internet, "http://www.example.net/headers", "--proxy", proxy)
    hosts.refuse_proxied(refuse=False)
    with pytest.raises(AssertionError):
        curl(host, internet, "http://www.example.net/headers", "--proxy", f"socks5h://{USERNAME}:wrong@{SOCKS_HOST}:1081")


def test_nothing_is_left(tmp_path: Path, host: Namespace) -> None:
    """The processes of the hosts end with the internet."""
    lonely = Namespace(tmp_path / "host")
    with contextlib.closing(lonely), pretend_internet(tmp_path / "other", lonely) as made:
        started = made.hosts
        pid = started._process._process.pid
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
