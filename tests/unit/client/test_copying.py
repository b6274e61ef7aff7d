"""Copies of a sandbox's files, by a sandbox whose tar sends what it likes, and to one that takes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.client.copying import download, upload
from cloister.client.sandbox import Program, SandboxClient
from cloister.errors import InvalidRequestError, UnavailableError
from cloister.protocol.filesystem import EntryInfo, FileType
from cloister.protocol.process import DataEvent, EndEvent, ProcessEvent

LONG = "d" * 247


class FakeProcess:
    """A tar that prints ``output``, or fails with ``error``, or waits for its input without reading it."""

    def __init__(self, output: bytes | None, error: Exception | None) -> None:
        self.events = self._events(output, error)

    async def _events(self, output: bytes | None, error: Exception | None) -> AsyncGenerator[ProcessEvent]:
        if error is not None:
            raise error
        if output is None:
            await asyncio.Event().wait()
        yield ProcessEvent(data=DataEvent(stdout=output))
        yield ProcessEvent(end=EndEvent(exit_code=0, exited=True, status="exit status 0"))

    async def send(self, data: bytes) -> bool:
        """Never takes it."""
        await asyncio.Event().wait()
        return bool(data)

    async def close_input(self) -> None:
        """Nothing waits for the end."""


class FakeSandbox:
    """A sandbox that has the directory /tree and one program."""

    def __init__(self, output: bytes | None = None, error: Exception | None = None) -> None:
        self._process = FakeProcess(output, error)

    async def stat(self, path: str, user: str | None) -> EntryInfo:
        """The directory."""
        return EntryInfo(
            name="tree", type=FileType.FILE_TYPE_DIRECTORY, path="/tree", size=0, mode=0o755, permissions="", owner="", group=""
        )

    @contextlib.asynccontextmanager
    async def start(self, program: Program) -> AsyncIterator[FakeProcess]:
        """As SandboxClient.start: closes the events at the end."""
        async with contextlib.aclosing(self._process.events):
            yield self._process


def sandbox_of(output: bytes | None = None, error: Exception | None = None) -> SandboxClient:
    """The fake in the place of a client."""
    return cast("SandboxClient", FakeSandbox(output, error))


def archive_of(*members: tuple[str, bytes, str]) -> bytes:
    """An archive of members by name, type and target; each file has the content ``evil``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o755
            member.size = 4 if member.isfile() else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return packed.getvalue()


def long_way_out() -> list[tuple[str, bytes, str]]:
    """Links whose path is too long to be resolved, as in CVE-2025-4517."""
    members, path, steps = list[tuple[str, bytes, str]](), "", "abcdefghijklmnop"
    for step in steps:
        members += [(path + LONG, tarfile.DIRTYPE, ""), (path + step, tarfile.SYMTYPE, LONG)]
        path += f"{LONG}/"
    deep = f"{'/'.join(steps)}/{'l' * 254}"
    return [*members, (deep, tarfile.SYMTYPE, "../" * len(steps)), ("escape", tarfile.SYMTYPE, f"{deep}/../outside")]


@pytest.mark.parametrize(
    "members",
    [
        [*long_way_out(), ("escape/evil", tarfile.REGTYPE, "")],
        [("door", tarfile.SYMTYPE, "/etc"), ("copy-of-door", tarfile.LNKTYPE, "door")],
        [("pipe", tarfile.FIFOTYPE, ""), ("copy-of-pipe", tarfile.LNKTYPE, "pipe")],
        [("a", tarfile.DIRTYPE, ""), ("here", tarfile.SYMTYPE, "a"), ("here/x", tarfile.REGTYPE, "")],
        [("here", tarfile.SYMTYPE, "x"), ("here", tarfile.REGTYPE, "")],
        [("u/b", tarfile.SYMTYPE, "c/../../../x")],
    ],
    ids=["long path", "hard link to a refused link", "hard link to a pipe", "below a link", "over a link", "up after down"],
)
async def test_links_of_an_archive_lead_nowhere(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    """An archive can make no link out of the copy, no file by a link of its own, and no special file; what it tries is left out."""
    (tmp_path / "outside").mkdir()
    copy = tmp_path / "copy"
    copy.mkdir()
    left_out = await download(sandbox_of(archive_of(*members)), "/tree", copy, None)
    assert left_out
    assert list((tmp_path / "outside").iterdir()) == []
    assert [name for name in ("escape", "copy-of-door", "copy-of-pipe", "a/x", "x", "u/b") if os.path.lexists(copy / name)] == []


async def test_links_are_copied(tmp_path: Path) -> None:
    """Links that stay inside, as programs make them, are copied."""
    members = [
        ("./bin", tarfile.DIRTYPE, ""),
        ("./bin/tool", tarfile.REGTYPE, ""),
        ("./bin/alias", tarfile.SYMTYPE, "../bin/tool"),
        ("./lib", tarfile.SYMTYPE, "bin"),
        ("./later", tarfile.SYMTYPE, "./missing"),
        ("./same", tarfile.LNKTYPE, "./bin/tool"),
    ]
    assert await download(sandbox_of(archive_of(*members)), "/tree", tmp_path, None) == []
    assert (tmp_path / "bin/alias").read_text() == (tmp_path / "lib/tool").read_text() == (tmp_path / "same").read_text() == "evil"
    assert (tmp_path / "later").is_symlink()


async def test_a_cancelled_upload_ends(tmp_path: Path) -> None:
    """An upload that is cancelled while its tar runs ends as cancelled."""
    (tmp_path / "file").write_text("x")
    uploading = asyncio.create_task(upload(sandbox_of(), tmp_path / "file", "", None))
    await asyncio.sleep(0.05)
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(uploading, 5)


async def test_an_upload_ends_with_its_sandbox(tmp_path: Path) -> None:
    """An upload whose sandbox is gone fails, although the sandbox takes no more input."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnavailableError, match="cut off"):
        await asyncio.wait_for(upload(sandbox_of(error=UnavailableError("cut off")), tmp_path / "file", "", None), 5)


async def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the caller may not read is an error with its name, also while tar waits for it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "secret")

    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(tarfile, "bltn_open", refuse)
    with pytest.raises(InvalidRequestError, match="cannot read secret: Permission denied"):
        await asyncio.wait_for(upload(sandbox_of(), tmp_path / "file", "", None), 5)
