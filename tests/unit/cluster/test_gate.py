"""A node on another machine, by its gate: calls, streams, restarts, and what the gate refuses."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.wire import PROTOCOL, FarChannel
from cloister.config.settings import Settings
from cloister.egresswire.values import AskValues, parse_answer, parse_request, render_answer, render_error, render_request
from cloister.errors import InvalidRequestError, NodeUnreachableError, PermissionDeniedError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.sandbox import SandboxRequest
from cloister.nodewire.methods import NodeEvent
from cloister.nodewire.requests import Kill, SandboxRef
from cloister.processes.api_cluster import ClusterSide
from cloister.processes.launcher import listen_for_values
from cloister.store.cluster_keys import write_api_keys
from cloister.tls.cluster import calling_context, make_cluster_authority, name_of_node
from framework.fake_cluster import GatedNode, gated_node
from framework.waiting import eventually_async

pytestmark = pytest.mark.root


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[GatedNode]:
    """A node behind its gate."""
    async with gated_node(tmp_path / "node.sock") as made:
        yield made


async def _agree(_node: NodeClient) -> None:
    """There is no state."""


def _request() -> SandboxRequest:
    return SandboxRequest(sandbox_id=new_sandbox_id(), template="base", end_at=2e9, team_id="team")


async def test_calls_and_events_cross(far: GatedNode) -> None:
    """A creation, an error with its code, and the event of an end."""
    heard: list[NodeEvent] = []
    link = far.link()
    link.start(NodeListener(_agree, heard.append))
    made = await link.calls.create(_request())
    assert await link.calls.get(SandboxRef(made.sandbox_id)) == made
    assert await link.calls.kill(Kill(made.sandbox_id))
    await eventually_async(lambda: bool(heard))
    with pytest.raises(SandboxNotFoundError):
        await link.calls.get(SandboxRef(made.sandbox_id))
    await link.close()


async def test_a_stream_reaches_a_port_and_says_when_it_is_closed(far: GatedNode) -> None:
    """Many bytes in both directions at once; then the end of the program ends the stream."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"early")
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    link = far.link()
    link.start(NodeListener(_agree, lambda _: None))
    made = await link.calls.create(_request())
    await far.node.find(made.sandbox_id).serve_raw(8000, echo)
    stream = await link.open_port(made.sandbox_id, 8000)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    stream.transport.set_protocol(protocol)
    protocol.connection_made(stream.transport)
    reader.feed_data(stream.early)
    stream.transport.resume_reading()
    data = os.urandom(3 << 20)
    stream.transport.write(data)
    assert await reader.readexactly(5 + len(data)) == b"early" + data
    await link.calls.kill(Kill(made.sandbox_id))
    other = await link.calls.create(_request())
    with pytest.raises(ConnectionRefusedError):
        await link.open_port(other.sandbox_id, 8001)
    with pytest.raises(SandboxNotFoundError):
        await link.open_port(made.sandbox_id, 8000)
    stream.transport.abort()
    await link.close()


async def test_streams_find_connections_made_ahead(far: GatedNode) -> None:
    """A further stream needs no handshake. Those that ended with their gate are not used, and none is left at the end."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response()

    link = far.link()
    link.start(NodeListener(_agree, lambda _: None))
    made = await link.calls.create(_request())
    await far.node.find(made.sandbox_id).serve(8000, answer)
    for _ in range(3):
        (await link.open_port(made.sandbox_id, 8000)).transport.abort()
        await eventually_async(lambda: len(link._spares) == 2)
    before = [transport for _, transport, _ in link._spares]
    (await link.open_port(made.sandbox_id, 8000)).transport.abort()
    assert before[0] not in [transport for _, transport, _ in link._spares]
    await far.agent.close()
    await eventually_async(before[1].is_closing)
    await far.restart_agent()
    (await link.open_port(made.sandbox_id, 8000)).transport.abort()
    await link.close()
    assert not link._spares


async def test_a_creation_survives_the_death_of_supervisor_and_agent(far: GatedNode) -> None:
    """It is made once; the gate shows that the machine lives while the supervisor is away."""
    link = far.link()
    link.start(NodeListener(_agree, lambda _: None))
    far.node.create_delay_s = 0.3
    request = _request()
    creating = asyncio.create_task(link.calls.create(request))
    await eventually_async(lambda: far.node.creates == 1)
    await far.node.die()
    await eventually_async(lambda: link.trouble == "its supervisor does not answer")
    before = link.heard_at
    await eventually_async(lambda: link.heard_at > before)
    await far.node.start()
    assert (await creating).sandbox_id == request.sandbox_id
    await far.agent.close()
    assert link.is_leaving
    await far.restart_agent()
    assert (await link.calls.get(SandboxRef(request.sandbox_id))).sandbox_id == request.sandbox_id
    assert not link.is_leaving
    await link.close()


async def _channel(far: GatedNode, context: ssl.SSLContext) -> FarChannel:
    host, port = far.listener.getsockname()
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name_of_node(far.node.node_id))
    return FarChannel(reader, writer)


async def test_an_api_process_cannot_take_descriptors_or_drain(far: GatedNode) -> None:
    """The resolver's sockets and the ways into sandboxes stay on the machine; only its root drains it."""
    channel = await _channel(far, calling_context(far.authority.certify_caller(), far.authority.certificate))
    await channel.send({"open": "calls", "protocol": PROTOCOL})
    while "ready" not in (await channel.receive()).body:
        pass
    for method, params in (("dns_sockets", {}), ("dial", {"sandbox_id": "a" * 20}), ("change_drain", {"is_on": True})):
        await channel.send({"id": 1, "method": method, "params": params})
        while "id" not in (body := (await channel.receive()).body):
            pass
        assert body["error"]["code"] == PermissionDeniedError.code, method
    channel.close()


async def test_a_question_of_the_egress_process_gets_the_answer_of_an_api_process(far: GatedNode, tmp_path: Path) -> None:
    """Over the connection that is there. Without one it is refused, and so is what the api process refuses."""
    path = tmp_path / "values.sock"
    with listen_for_values(path, os.getuid()) as listener:
        await far.agent.serve_values(listener, os.getuid())
        reader, writer = await asyncio.open_unix_connection(path)

        async def ask(host: str) -> tuple[str, ...]:
            writer.write(render_request(AskValues("a" * 20, host, ("${secret}",))))
            return parse_answer(await reader.readline())

        async def answer(line: str) -> str:
            if parse_request(line.encode()).host == "bad.example":
                return render_error("not_found", "there is no secret").decode()
            return render_answer(("value",)).decode()

        with pytest.raises(InvalidRequestError, match="no api process is connected"):
            await ask("good.example")
        link = far.link(answer=answer)
        link.start(NodeListener(_agree, lambda _: None))
        await link.wait_connected()
        assert await ask("good.example") == ("value",)
        with pytest.raises(InvalidRequestError, match="there is no secret"):
            await ask("bad.example")
        writer.close()
        await link.close()


async def test_a_node_cannot_have_a_secret_of_another_nodes_sandbox(tmp_path: Path) -> None:
    """A question counts only for a sandbox of the node that asks."""
    authority = make_cluster_authority()
    write_api_keys(tmp_path, authority.certificate, authority.key, authority.certify_caller())
    side = ClusterSide(Settings(data_dir=tmp_path))
    side._homes = cast("Any", SimpleNamespace(of_sandbox=lambda _: "node_a"))

    async def fill(_ask: AskValues) -> tuple[str, ...]:
        return ("value",)

    side.answer_values(fill)
    line = render_request(AskValues("a" * 20, "good.example", ("${secret}",))).decode()
    assert parse_answer((await side._answer("node_a", line)).encode()) == ("value",)
    with pytest.raises(InvalidRequestError, match="not on this node"):
        parse_answer((await side._answer("node_b", line)).encode())


async def test_another_protocol_is_refused(far: GatedNode) -> None:
    """With words that say which one the node speaks."""
    channel = await _channel(far, calling_context(far.authority.certify_caller(), far.authority.certificate))
    await channel.send({"open": "calls", "protocol": PROTOCOL + 1})
    assert f"speaks protocol {PROTOCOL}" in (await channel.receive()).body["error"]["message"]
    channel.close()


async def _ask(far: GatedNode, context: ssl.SSLContext) -> None:
    channel = await _channel(far, context)
    try:
        await channel.send({"open": "calls", "protocol": PROTOCOL})
        await channel.receive()
    finally:
        channel.close()


async def test_a_process_without_a_callers_certificate_cannot_call(far: GatedNode) -> None:
    """Neither with the certificate of a node, nor with one of another authority."""
    stranger = make_cluster_authority()
    for own in (far.keys.own, stranger.certify_caller()):
        with pytest.raises(OSError):  # noqa: PT011 - TLS, or the end of the connection
            await _ask(far, calling_context(own, far.authority.certificate))


async def test_a_node_cannot_answer_for_another_node(far: GatedNode) -> None:
    """The certificate names the node, and the link says what is wrong."""
    link = far.link(name_of_node("node_0123456789abcdef"))
    link.start(NodeListener(_agree, lambda _: None))
    await eventually_async(lambda: "certificate" in link.trouble)
    with pytest.raises(NodeUnreachableError):
        await link.wait_connected(0.1)
    await link.close()
