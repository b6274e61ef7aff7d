"""The pretend internet, and a sandbox's access to it: names by the relay, HTTPS by NAT, and no packet with internet access off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from cloister.linux.netns import NetnsThread
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.network.dns_relay import DnsRelay
from cloister.network.slots import NetworkNode
from framework.network_lab import Lab, Namespace, SandboxNamespace, running_node
from framework.pretend_internet import HOST_ADDRESS, PretendInternet, pretend_internet

pytestmark = pytest.mark.root


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace that plays the host."""
    made = Namespace(tmp_path / "host")
    made.run("echo 0 > /proc/sys/net/ipv4/ip_forward")
    yield made
    made.close()


@pytest.fixture
def internet(tmp_path: Path, host: Namespace) -> Iterator[PretendInternet]:
    """The pretend internet of that host."""
    with pretend_internet(tmp_path, host) as made:
        yield made


def ask(where: Namespace, server: str, name: str, *, tcp: bool = False, timeout_s: float = 2.0, kind: str = "A") -> DNSRecord:
    """Ask a DNS question from inside a namespace."""
    question = DNSRecord.question(name, kind)
    with where.open_socket(socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect((server, 53))
        if not tcp:
            sock.send(question.pack())
            return DNSRecord.parse(sock.recv(4096))
        packed = question.pack()
        sock.sendall(len(packed).to_bytes(2, "big") + packed)
        with sock.makefile("rb") as file:
            return DNSRecord.parse(file.read(int.from_bytes(file.read(2), "big")))


def fetch(where: Namespace, internet: PretendInternet, name: str = "httpbin.org") -> dict[str, object]:
    """GET https://<name>/json from inside a namespace, trusting the pretend CA only."""
    context = ssl.create_default_context(cafile=str(internet.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(where.open_socket())
        sock.settimeout(3)
        sock.connect((internet.web_address, 443))
        tls = stack.enter_context(context.wrap_socket(sock, server_hostname=name))
        tls.sendall(f"GET /json HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
        with tls.makefile("rb") as file:
            found: dict[str, object] = json.loads(file.read().split(b"\r\n\r\n", 1)[1])
            return found


def test_the_pretend_internet_answers(host: Namespace, internet: PretendInternet) -> None:
    """Its resolver knows only its own names, a strict client accepts its HTTPS server, and its counter counts."""
    for tcp in (False, True):
        assert str(ask(host, internet.dns_address, "httpbin.org", tcp=tcp).a.rdata) == internet.web_address
    assert ask(host, internet.dns_address, "nowhere.example").header.rcode == RCODE.NXDOMAIN
    empty = ask(host, internet.dns_address, "httpbin.org", kind="AAAA")
    assert (empty.header.rcode, empty.rr) == (RCODE.NOERROR, [])
    assert "slideshow" in fetch(host, internet)
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch(host, internet, "other.example")
    assert internet.packets() > 0
    assert internet.packets(source=HOST_ADDRESS) == internet.packets()
    assert internet.packets(source="203.0.113.1") == 0


def test_the_pretend_internet_leaves_nothing(tmp_path: Path, host: Namespace) -> None:
    """After one or two stops there is no interface, namespace or process, and it can be created again."""
    before = host.run("ip -o link; ip route")
    for _ in range(2):
        made = PretendInternet(tmp_path, host)
        made.stop()
        made.stop()
        assert host.run("ip -o link; ip route") == before
        assert not (tmp_path / "pretend" / "netns").exists()


@contextlib.contextmanager
def running_relay(host: Namespace, node: NetworkNode, *upstreams: str) -> Iterator[None]:
    """A relay on the node's sockets, with an event loop on a thread of the host's namespace: it asks from there."""
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    is_serving = threading.Event()

    async def serve() -> None:
        relay = DnsRelay(*node.dns_sockets(), upstreams)
        await relay.start()
        is_serving.set()
        await ended.wait()
        await relay.stop()

    def body() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve())

    thread = NetnsThread(host.fd, "relay")
    done = threading.Thread(target=thread.call, args=(body,))
    done.start()
    try:
        assert is_serving.wait(5)
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        done.join(10)
        thread.close()


@pytest.fixture
def node(host: Namespace, internet: PretendInternet, tmp_path: Path) -> Iterator[NetworkNode]:
    """A node on that host."""
    bench = Lab.__new__(Lab)
    bench.directory, bench.host = tmp_path, host
    with running_node(bench) as made:
        yield made


@pytest.fixture
def sandbox() -> Iterator[SandboxNamespace]:
    """A sandbox's namespace."""
    made = SandboxNamespace()
    yield made
    made.close()


def test_a_sandbox_resolves_and_fetches(host: Namespace, internet: PretendInternet, node: NetworkNode, sandbox: SandboxNamespace) -> None:
    """Names by the gateway over UDP and TCP, then HTTPS through NAT: what a program inside does."""
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    with running_relay(host, node, internet.dns_address):
        for tcp in (False, True):
            answer = ask(sandbox, node.gateway_address, "httpbin.org", tcp=tcp)
            assert str(answer.a.rdata) == internet.web_address
        denied = ask(sandbox, node.gateway_address, "nowhere.example")
        assert denied.header.rcode == RCODE.NXDOMAIN
        assert "slideshow" in fetch(sandbox, internet)


def test_a_sandbox_without_internet_has_no_dns_either(
    host: Namespace, internet: PretendInternet, node: NetworkNode, sandbox: SandboxNamespace
) -> None:
    """With internet access off the pretend internet counts no packet. A live change switches access on and off."""
    node.attach(1, sandbox.fd, NO_EGRESS)
    with running_relay(host, node, internet.dns_address):
        attempts: list[Callable[[], object]] = [
            lambda: ask(sandbox, node.gateway_address, "httpbin.org", timeout_s=0.5),
            lambda: ask(sandbox, node.gateway_address, "httpbin.org", tcp=True, timeout_s=0.5),
            lambda: ask(sandbox, internet.dns_address, "httpbin.org", timeout_s=0.5),
            lambda: fetch(sandbox, internet),
        ]
        for attempt in attempts:
            with pytest.raises(OSError, match=r"refused|No route|timed out"):
                attempt()
        assert internet.packets() == 0
        node.set_egress(1, PUBLIC_EGRESS)
        for attempt in attempts:
            attempt()
        node.set_egress(1, NO_EGRESS)
        seen = internet.packets()
        for attempt in attempts:
            with pytest.raises(OSError, match=r"refused|No route|timed out"):
                attempt()
        assert internet.packets() == seen


def test_dns_fails_over_and_says_servfail(host: Namespace, internet: PretendInternet, node: NetworkNode, sandbox: SandboxNamespace) -> None:
    """A resolver that refuses is passed over for the next one; with none that answers the sandbox is told SERVFAIL."""
    node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    dead = f"{internet.web_address}:5353"
    with running_relay(host, node, dead, internet.dns_address):
        assert ask(sandbox, node.gateway_address, "httpbin.org", timeout_s=4).header.rcode == RCODE.NOERROR
    with running_relay(host, node, "127.0.0.1:9"):
        for tcp in (False, True):
            answer = ask(sandbox, node.gateway_address, "httpbin.org", tcp=tcp, timeout_s=4)
            assert answer.header.rcode == RCODE.SERVFAIL
            assert (answer.q.qtype, str(answer.q.qname)) == (QTYPE.A, "httpbin.org.")
