"""Replacing a certificate: from its source, across the socket pair, into a listener with live connections."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from cloister.errors import InternalError, InvalidRequestError, UnavailableError
from cloister.tls.authority import ServerNames, ca_file, create_authority
from cloister.tls.context import ReplaceableContext
from cloister.tls.handover import make_pair, receive, receive_first, send
from cloister.tls.source import AuthoritySource, FileSource

NAMES = ServerNames("sbx.test", "127.0.0.1")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def test_new_connections_get_the_new_certificate(tmp_path: Path) -> None:
    """After a replacement, by another kind of key too, handshakes use the new certificate only; an open connection goes on."""
    authority = create_authority(tmp_path, NAMES)
    context = ReplaceableContext(authority.issue(NAMES))
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=context.listening)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(ca_file(tmp_path)))

    async def connect(name: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name or "127.0.0.1")
        return reader, writer, writer.get_extra_info("peercert")["serialNumber"]

    reader, writer, first = await connect("api.sbx.test")
    context.replace(authority.issue(NAMES))
    others = [await connect(name) for name in ("api.sbx.test", "8000-abc.sbx.test", None)]
    assert {serial for _, _, serial in others} == {others[0][2]} != {first}
    writer.write(b"still here")
    assert await reader.read(100) == b"still here"
    assert others[0][1].get_extra_info("ssl_object").selected_alpn_protocol() is None
    for closing in (writer, *(item[1] for item in others)):
        closing.close()
        await closing.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that speaks nothing newer than TLS 1.1 is not served."""
    context = ReplaceableContext(create_authority(tmp_path, NAMES).issue(NAMES))
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=context.listening)
    client = ssl.create_default_context(cafile=str(ca_file(tmp_path)))
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLS"):
        client.maximum_version = version
    with pytest.raises(OSError):  # noqa: PT011 - which kind depends on the client's library
        await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1], ssl=client, server_hostname="localhost")
    server.close()
    await server.wait_closed()


def test_handover() -> None:
    """Versions arrive whole and in order; a side that is gone is noticed."""
    mine, theirs = make_pair()
    send(mine, b"first" * 5_000)
    assert receive_first(theirs) == b"first" * 5_000
    send(mine, b"second")
    assert receive(theirs) == b"second"
    with pytest.raises(BlockingIOError):
        receive(theirs)
    theirs.close()
    with pytest.raises(UnavailableError):
        send(mine, b"third")
    mine.close()
    mine, theirs = make_pair()
    mine.close()
    with pytest.raises(InternalError):
        receive_first(theirs)
    theirs.close()


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A source of files is stale once either file is another, also by way of a symbolic link, and refuses what does not fit."""
    authority = create_authority(tmp_path, NAMES)

    def write(number: int) -> bytes:
        pem = authority.issue(NAMES)
        at = pem.index(b"-----BEGIN CERTIFICATE")
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "key.pem").write_bytes(pem[:at])
        (directory / "cert.pem").write_bytes(pem[at:])
        (tmp_path / "next").symlink_to(directory)
        (tmp_path / "next").rename(tmp_path / "live")
        return pem

    first = write(1)
    source = FileSource(tmp_path / "live" / "cert.pem", tmp_path / "live" / "key.pem")
    assert source.load() == first
    assert not source.is_stale()
    second = write(2)
    assert source.is_stale()
    assert source.load() == second
    (tmp_path / "2" / "key.pem").write_bytes((tmp_path / "1" / "key.pem").read_bytes())
    with pytest.raises(InvalidRequestError, match="do not belong together"):
        source.load()
    (tmp_path / "2" / "key.pem").unlink()
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        source.load()
    assert not source.is_stale(), "what failed is tried again only when something changed"


def test_authority_source(tmp_path: Path) -> None:
    """The local authority is made at the first need; replaced, it is used at once."""
    source = AuthoritySource(tmp_path, NAMES)
    assert b"PRIVATE KEY" in source.load()
    assert not source.is_stale()
    before = ca_file(tmp_path).read_bytes()
    source.load()
    assert ca_file(tmp_path).read_bytes() == before
    create_authority(tmp_path, NAMES, replace=True)
    assert source.is_stale()
    assert ca_file(tmp_path).read_bytes() in source.load()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Contexts made over and over leave no descriptor."""
    authority = create_authority(tmp_path, NAMES)
    context = ReplaceableContext(authority.issue(NAMES))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        context.replace(authority.issue(NAMES))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
