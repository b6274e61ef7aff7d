"""Receiving archives: bounds and links, without HTTP."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.control.uploads import NeededUploads, UploadLimits, Uploads
from cloister.errors import AuthenticationError, InvalidArchiveError, InvalidRequestError, StorageFullError
from cloister.model.team import Team
from cloister.store.sqlite import SqliteStore
from cloister.store.uploads import UploadFiles

HASH = "a" * 64


@pytest.fixture
def needed() -> NeededUploads:
    """The archives that unfinished builds need: none at first."""
    return NeededUploads()


@pytest.fixture
async def uploads(tmp_path: Path, needed: NeededUploads) -> AsyncIterator[Uploads]:
    """Open uploads of two teams."""
    store = await SqliteStore.open(tmp_path / "x.db")
    for team in ("t1", "t2"):
        await store.teams.add_team(Team(team_id=team, name=team, created_at=1.0))
    policy = UploadLimits(max_bytes=1 << 20, total_bytes=1 << 20, reserve_bytes=0)
    uploads = Uploads(UploadFiles(tmp_path / "uploads"), store.templates, policy, needed)
    await uploads.open()
    yield uploads
    await uploads.close()
    await store.close()


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    """A request's body."""
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("chunks", [(b"short",), (b"x" * 8, b"y" * 8), ()])
async def test_a_body_of_another_length_is_refused(uploads: Uploads, tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    """An archive that is not as long as was said is not kept."""
    _, token = await uploads.offer("t1", HASH)
    with pytest.raises(InvalidRequestError, match=f"ended after {sum(map(len, chunks))} bytes of 10"):
        await uploads.receive(token, 10, body(*chunks))
    assert (await uploads.offer("t1", HASH))[0] is False
    assert not list((tmp_path / "uploads" / ".incoming").iterdir())


async def test_an_archive_that_vanished_is_asked_for_again(uploads: Uploads, tmp_path: Path) -> None:
    """A row without its file counts for nothing."""
    _, token = await uploads.offer("t1", HASH)
    await uploads.receive(token, 4, body(b"da", b"ta"))
    assert (await uploads.offer("t1", HASH))[0] is True
    (tmp_path / "uploads" / "t1" / HASH / "archive").unlink()
    assert (await uploads.offer("t1", HASH))[0] is False
    with pytest.raises(InvalidArchiveError, match="were not uploaded"):
        await uploads.files("t1", HASH, "a")


@pytest.mark.parametrize("token", ["", ".", "a.b", "é.é", "=" * 10, "x" * 10_000, "W10.00", "\udcff.\udcff"])
async def test_noise_is_no_link(uploads: Uploads, token: str) -> None:
    """Whatever is sent as a token is refused, not failed at."""
    with pytest.raises(AuthenticationError, match="not valid"):
        await uploads.receive(token, 4, body(b"data"))


def _tar(content: bytes) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz") as tar:
        info = tarfile.TarInfo("a")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return into.getvalue()


async def test_content_decides_what_a_build_gets(uploads: Uploads) -> None:
    """Any hash a client makes is a name for its archive, in its own team; builds get the digest of what the archive holds."""
    digests = {}
    for team, name, content in (("t1", HASH, b"one"), ("t1", "Q2xpZW50_key-1", b"one"), ("t1", "f" * 128, b"two"), ("t2", HASH, b"two")):
        present, token = await uploads.offer(team, name)
        assert not present
        data = _tar(content)
        await uploads.receive(token, len(data), body(data))
        digests[team, name] = (await uploads.files(team, name, "a")).digest
    one, same, two, theirs = digests.values()
    assert one == same != two == theirs
    for wrong in ("", "a/b", "..", ".key", "-a", "a b", "é", "x" * 129, "a\n"):
        with pytest.raises(InvalidRequestError, match="the hash of files"):
            await uploads.offer("t1", wrong)


async def test_an_archive_that_a_build_needs_is_kept(uploads: Uploads, needed: NeededUploads) -> None:
    """A new archive replaces an old one when the room is used up, but not one that an unfinished build needs."""
    _, token = await uploads.offer("t1", HASH)
    await uploads.receive(token, 4, body(b"data"))
    needed.add("a build", "t1", [HASH])
    _, other = await uploads.offer("t2", HASH)
    with pytest.raises(StorageFullError, match="unfinished builds"):
        await uploads.receive(other, 4, body(b"data"))
    needed.forget("a build")
    await uploads.receive(other, 4, body(b"data"))
    assert (await uploads.offer("t1", HASH))[0] is False
