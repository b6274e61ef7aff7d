"""Connections through a SOCKS5 proxy: names and addresses as they are, credentials and TLS, and no way past a proxy that fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from cloister.egress.connection import Connection, DialError
from cloister.egress.dialing import Dialer
from cloister.egress.socks import SocksDialer
from cloister.egress.splice import splice
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge, Verdict
from cloister.model.network import EgressPolicy, EgressProxy
from cloister.model.secret import Secret
from framework.egress_lab import listening
from framework.pretend_certificates import write_certificates
from framework.pretend_socks import PASSWORD, USERNAME, SocksProxy


async def _no_names(_source: str, name: str) -> list[IPv4Address]:
    if name != "proxy.example":
        raise DialError("name_not_found")
    return [IPv4Address("127.0.0.1")]


@contextlib.asynccontextmanager
async def _proxy(directory: Path) -> AsyncIterator[tuple[SocksProxy, dict[str, int], int]]:
    """A proxy, its ports without credentials, with them, and with TLS; and the port of an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    proxy = SocksProxy(lambda name: "127.0.0.1" if name == "good.example" else None)
    write_certificates(directory / "ca.pem", directory / "server.pem", ["proxy.example"], [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    async with (
        listening(echo) as target,
        listening(proxy.without_credentials) as without,
        listening(proxy.with_credentials) as closed,
        listening(proxy.with_credentials, context) as tls,
    ):
        yield proxy, {"open": without[1], "closed": closed[1], "tls": tls[1]}, target[1]


def _connection(proxy: EgressProxy, address: str, port: int, name: str | None = None) -> Connection:
    """A judged connection of a sandbox; its client's end is not used."""
    judge = Judge(EgressPolicy(public=True, proxy=proxy))
    verdict = Verdict(is_allowed=True, rule="x", is_by_name=name is not None)
    return Connection("sbx", "127.0.0.5", (address, port), cast("ByteStream", None), lambda: judge, name=name, verdict=verdict)


async def _echoed(stream: ByteStream, data: bytes) -> bytes:
    await stream.write(data)
    found = b""
    while len(found) < len(data):
        found += await stream.read()
    return found


def _with_credentials(address: str, password: str = PASSWORD, ca_certs: str | None = None, server_name: str | None = None) -> EgressProxy:
    secret = Secret(password)
    tls = ca_certs is not None
    return EgressProxy(address=address, username=USERNAME, password=secret, tls=tls, ca_certs=ca_certs, server_name=server_name)


async def test_names_and_addresses_go_to_the_proxy_as_they_are(tmp_path: Path) -> None:
    """A flow by name sends the name, one by address the address; bytes pass both ways, with credentials, and by TLS."""
    async with _proxy(tmp_path) as (proxy, ports, port):
        dialer = Dialer(_no_names, SocksDialer())
        for made in (
            EgressProxy(address=f"127.0.0.1:{ports['open']}"),
            _with_credentials(f"proxy.example:{ports['closed']}"),
            _with_credentials(f"proxy.example:{ports['tls']}", ca_certs=(tmp_path / "ca.pem").read_text()),
            _with_credentials(f"127.0.0.1:{ports['tls']}", ca_certs=(tmp_path / "ca.pem").read_text(), server_name="proxy.example"),
        ):
            for address, name in (("127.0.0.1", None), ("192.0.2.9", "good.example")):
                upstream = await dialer.open(_connection(made, address, port, name))
                assert await _echoed(upstream.stream, bytes(1000)) == bytes(1000)
                upstream.stream.abort()
        assert [(one["host"], one["port"]) for one in proxy.connections] == [("127.0.0.1", port), ("good.example", port)] * 4
        assert {one["user"] for one in proxy.connections} == {"", USERNAME}


@pytest.mark.parametrize("kind", ["closed", "tls"])
async def test_a_large_transfer_through_a_proxy_is_whole(tmp_path: Path, kind: str) -> None:
    """Bytes beyond every buffer pass through the splice and the proxy unchanged."""
    async with _proxy(tmp_path) as (_, ports, port):
        ca_certs = (tmp_path / "ca.pem").read_text() if kind == "tls" else None
        made = _with_credentials(f"proxy.example:{ports[kind]}", ca_certs=ca_certs)
        upstream = await Dialer(_no_names, SocksDialer()).open(_connection(made, "127.0.0.1", port))
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setblocking(False)
        client, guest = ByteStream(near), ByteStream(far)
        passing = asyncio.create_task(splice(client, upstream.stream))
        data = bytes(range(256)) * 16 * 1024
        sending = asyncio.create_task(guest.write(data))
        found = bytearray()
        while len(found) < len(data):
            found += await guest.read()
        assert found == data
        await sending
        passing.cancel()
        for stream in (client, guest, upstream.stream):
            stream.abort()


async def test_a_proxy_that_fails_leads_nowhere(tmp_path: Path) -> None:
    """A proxy that is down, refuses, does not know the name, or has a wrong certificate: an error, without the password."""
    async with _proxy(tmp_path) as (proxy, ports, port):
        dialer = Dialer(_no_names, SocksDialer())
        ca_certs = (tmp_path / "ca.pem").read_text()
        with socket.create_server(("127.0.0.1", 0)) as unused:
            free = unused.getsockname()[1]
        cases = (
            (_with_credentials(f"127.0.0.1:{free}"), None, "proxy_unreachable"),
            (_with_credentials(f"unknown.example:{ports['closed']}"), None, "proxy_unreachable"),
            (_with_credentials(f"127.0.0.1:{ports['closed']}", password="wrong"), None, "proxy_refused_credentials"),
            (EgressProxy(address=f"127.0.0.1:{ports['closed']}"), None, "proxy_refused_credentials"),
            (_with_credentials(f"127.0.0.1:{ports['closed']}"), "evil.example", "proxy_refused"),
            (_with_credentials(f"127.0.0.1:{ports['tls']}", ca_certs=ca_certs), None, "proxy_tls_failed"),
            (_with_credentials(f"proxy.example:{ports['tls']}", ca_certs=ca_certs, server_name="other.example"), None, "proxy_tls_failed"),
            (EgressProxy(address=f"proxy.example:{ports['tls']}", tls=True), None, "proxy_tls_failed"),
        )
        for made, name, reason in cases:
            with pytest.raises(DialError) as caught:
                await dialer.open(_connection(made, "127.0.0.1", port, name))
            assert caught.value.reason == reason
            assert PASSWORD not in repr(caught.value)
        assert [one["host"] for one in proxy.connections] == ["evil.example"]
