"""Sandboxes that are limited to names, with and without the setting that opens their TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.egress.intercept.contexts import GuestContexts, UpstreamContexts
from cloister.egress.intercept.interceptor import HeaderInterceptor
from cloister.model.network import EgressPolicy
from cloister.node.authorities import authority_by
from cloister.tls.sandbox_authority import authority_of
from framework.egress_lab import EgressLab, egress_lab, listening
from framework.intercept_lab import HOST, SECRET, UPSTREAM_AUTHORITY, FakeValues, ScriptedUpstream, ask, get, server_context

LIMITED = EgressPolicy(public=False, names=(HOST,))
FRONTED = get().replace(f"Host: {HOST}".encode(), b"Host: hidden.example.net")


@pytest.fixture(params=[False, True])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[tuple[EgressLab, bool]]:
    """A gateway with a sandbox that may reach one name, and whether it opens TLS."""
    interceptor = HeaderInterceptor(GuestContexts(SECRET), UpstreamContexts(UPSTREAM_AUTHORITY.pem), FakeValues())
    async with egress_lab(interceptor, inspects=request.param) as made:
        made.put(LIMITED)
        yield made, request.param


async def request_over_tls(lab: EgressLab, request: bytes) -> bytes:
    """The answer to a request, for a guest that trusts its authority beside that of the upstream."""
    guest = await lab.connect("192.0.2.1", 443)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for authority in (UPSTREAM_AUTHORITY, authority_of(SECRET, "sbx")):
        context.load_verify_locations(cadata=authority.pem)
    await guest.writer.start_tls(context, server_hostname=HOST)
    return await ask((guest.reader, guest.writer), request)


async def test_a_sandbox_cannot_front_a_domain_where_tls_is_opened(lab: tuple[EgressLab, bool], tmp_path: Path) -> None:
    """With the setting the request is 421; without it the server decides, as the documentation says."""
    gateway, inspects = lab
    upstream = ScriptedUpstream()
    async with listening(upstream, server_context(tmp_path)) as gateway.servers[HOST, 443]:
        answer = await request_over_tls(gateway, FRONTED)
    assert (b" 421 " in answer) == inspects
    assert (b"hidden.example.net" in upstream.received) != inspects


async def test_an_honest_request_passes_either_way(lab: tuple[EgressLab, bool], tmp_path: Path) -> None:
    """Without a header of ours."""
    gateway, _ = lab
    upstream = ScriptedUpstream()
    async with listening(upstream, server_context(tmp_path)) as gateway.servers[HOST, 443]:
        assert (await request_over_tls(gateway, get())).endswith(b"ok")
    assert upstream.received == get()


async def test_other_connections_are_not_opened(lab: tuple[EgressLab, bool]) -> None:
    """An address that is allowed by itself is passed on unread."""
    gateway, _ = lab
    gateway.put(EgressPolicy(public=False, names=(HOST,), allow=("192.0.2.9/32",)))

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async with listening(echo) as gateway.servers["192.0.2.9", 443]:
        guest = await gateway.connect("192.0.2.9", 443)
        await guest.send(b"no TLS at all")
        assert await guest.reader.read() == b"no TLS at all"


@pytest.mark.parametrize("inspects", [False, True])
def test_only_sandboxes_whose_tls_is_opened_get_an_authority(inspects: bool) -> None:
    """Limited to names: with the setting alone. Not limited: never."""
    authority_for = authority_by(str.upper, inspects=inspects)
    assert authority_for("a", LIMITED) == ("A" if inspects else "")
    assert authority_for("a", EgressPolicy(public=True, names=(HOST,))) == ""
