"""Receiving archives: bounds and links, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.control.uploads import UploadPolicy, Uploads
from cloister.errors import AuthenticationError, InvalidArchiveError, InvalidRequestError
from cloister.store.base import Team
from cloister.store.sqlite import SqliteStore
from cloister.store.uploads import UploadFiles

HASH = "a" * 64


@pytest.fixture
async def uploads(tmp_path: Path) -> AsyncIterator[Uploads]:
    """Open uploads of one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.add_team(Team(team_id="t1", name="t1", created_at=1.0))
    uploads = Uploads(
        UploadFiles(tmp_path / "uploads"), store.templates, UploadPolicy(max_bytes=1 << 20, total_bytes=1 << 20, reserve_bytes=0)
    )
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
        await uploads.files("t1", HASH, "a", "b")


@pytest.mark.parametrize("token", ["", ".", "a.b", "é.é", "=" * 10, "x" * 10_000, "W10.00", "\udcff.\udcff"])
async def test_noise_is_no_link(uploads: Uploads, token: str) -> None:
    """Whatever is sent as a token is refused, not failed at."""
    with pytest.raises(AuthenticationError, match="not valid"):
        await uploads.receive(token, 4, body(b"data"))
