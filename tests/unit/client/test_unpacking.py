"""Archives of a sandbox: headers of any size take no memory, and no link of this machine is followed."""

from __future__ import annotations

import io
import os
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.client import unpacking
from cloister.client.unpacking import unpack_file, unpack_tree
from cloister.errors import InvalidArchiveError


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """The block of one header."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mtime = kind, size, link, 1_000_000_000
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


END = bytes(1024)


@pytest.fixture
def memory() -> Iterator[None]:
    """At most 64 MiB more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Endless(io.RawIOBase):
    """The bytes of an archive, and then zeros without end."""

    def __init__(self, start: bytes) -> None:
        self._start = io.BytesIO(start)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Any number of bytes."""
        data = self._start.read(len(buffer)).ljust(len(buffer), b"\0")
        buffer[:] = data
        return len(data)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_a_gigabyte_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Before it is read."""
    with pytest.raises(InvalidArchiveError, match="header of impossible size"):
        unpack_tree(io.BufferedReader(Endless(header("x", kind, 1 << 30))), tmp_path, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("memory")
def test_headers_without_end_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names one after another, members that are left out, and links are all bounded."""
    monkeypatch.setattr(unpacking, "_MOST_TOLD", 50)
    monkeypatch.setattr(unpacking, "_MOST_LINKS", 50)
    names = (header("x", tarfile.GNUTYPE_LONGNAME, 512) + b"n" * 512) * 20_000
    unpack_tree(io.BytesIO(names + header("short") + END), tmp_path / "names", "")
    with pytest.raises(InvalidArchiveError, match="had to be left out"):
        unpack_tree(io.BytesIO(header("pipe", tarfile.FIFOTYPE) * 51 + END), tmp_path / "left", "")
    links = b"".join(header(f"l{number}", tarfile.SYMTYPE, link="x") for number in range(51))
    with pytest.raises(InvalidArchiveError, match="more than 50 links"):
        unpack_tree(io.BytesIO(links + END), tmp_path / "links", "")


def test_no_link_of_this_machine_is_followed(tmp_path: Path) -> None:
    """Links that were in the target before, to a file and to a directory, lead the sandbox nowhere."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "file").write_text("mine")
    (target / "file").symlink_to(outside / "file")
    (target / "directory").symlink_to(outside)
    archive = b"".join(header(name, size=4) + b"evil".ljust(512, b"\0") for name in ("file", "directory/new", "fine")) + END
    left_out = unpack_tree(io.BytesIO(archive), target, "")
    assert [line.partition(":")[0] for line in left_out] == ["'file'", "'directory/new'"]
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "mine"}
    assert (target / "fine").read_text() == "evil"


def test_files_keep_modes_and_times(tmp_path: Path) -> None:
    """Rights of others to write, and of the file to act as its owner, are dropped; long names work."""
    name = "d" * 90 + "/" + "f" * 200
    member = tarfile.TarInfo(name)
    member.mode, member.mtime, member.size = 0o6757, 1_000_000_000, 4
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"text"))
    assert unpack_tree(io.BytesIO(packed.getvalue()), tmp_path / "new", "") == []
    found = (tmp_path / "new" / name).stat()
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o755, 1_000_000_000)
    unpack_file(io.BytesIO(packed.getvalue()), tmp_path / "one")
    assert (tmp_path / "one").read_text() == "text"


def test_any_release_of_python_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.11.0 to 3.11.3 have no filters of archives."""
    for name in ("data_filter", "FilterError"):
        monkeypatch.delattr(tarfile, name)
    assert unpack_tree(io.BytesIO(header("./a/b") + END), tmp_path, "") == []
    assert (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize("link", ["self", "/etc/passwd", "a/../../up", "missing", "dir"])
def test_a_hard_link_names_a_file_of_the_archive(tmp_path: Path, link: str) -> None:
    """Another one is left out."""
    archive = header("dir", tarfile.DIRTYPE) + header("self", tarfile.LNKTYPE, link=link) + END
    assert len(unpack_tree(io.BytesIO(archive), tmp_path, "")) == 1
    assert not os.path.lexists(tmp_path / "self")
