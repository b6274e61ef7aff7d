"""A layer of an image, applied to a tree: what is kept, what is taken away, what is refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from cloister.agent.build.image import Unpacker
from cloister.errors import InvalidRequestError
from framework.registry import entry


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> io.BufferedReader:
    """As a file, since the program takes what it copies from a descriptor."""
    fd = os.memfd_create("layer")
    with os.fdopen(os.dup(fd), "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    return os.fdopen(fd, "rb")


def apply(root: Path, *entries: tuple[tarfile.TarInfo, bytes], max_entries: int = 1000) -> Unpacker:
    """Without owners, since unit tests need no root."""
    unpacker = Unpacker(root, max_entries=max_entries, keep_owners=False)
    with archive(*entries) as file:
        unpacker.unpack(file)
    return unpacker


def tree(root: Path) -> set[str]:
    """Everything below, by its path."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_kinds_of_entries(tmp_path: Path) -> None:
    """Files, directories, links, pipes, with modes and times; names of any bytes; parents that the archive does not name."""
    odd = "new\nline \udcff"
    apply(
        tmp_path,
        entry("./", tarfile.DIRTYPE, mode=0o750),
        entry("a/b/file", data=b"x" * 100_000, mode=0o4755),
        entry("/a/b/hard", tarfile.LNKTYPE, linkname="a/b/file"),
        entry("soft", tarfile.SYMTYPE, linkname="/absolute/../nowhere"),
        entry("pipe", tarfile.FIFOTYPE, mode=0o600),
        entry(odd, data=b"odd"),
        entry("a/", tarfile.DIRTYPE, mode=0o700),
    )
    assert tree(tmp_path) == {"a", "a/b", "a/b/file", "a/b/hard", "soft", "pipe", odd}
    file = tmp_path / "a/b/file"
    assert file.read_bytes() == b"x" * 100_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o4755
    assert file.stat().st_nlink == 2
    assert file.stat().st_mtime == 1_000_000_000
    assert (tmp_path / "soft").readlink() == Path("/absolute/../nowhere")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (stat.S_IMODE((tmp_path / "a").stat().st_mode), (tmp_path / "a").stat().st_mtime) == (0o700, 1_000_000_000)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_whiteouts_take_away_what_lies_below(tmp_path: Path) -> None:
    """A file, a directory with all that is in it; a whiteout of nothing does nothing; metadata of old tools is passed over."""
    apply(tmp_path, entry("keep"), entry("go"), entry("dir/one/two"), entry("dir/three"))
    apply(
        tmp_path, entry(".wh.go"), entry("dir/.wh.one"), entry(".wh.nothing"), entry("none/.wh.x"), entry(".wh..wh.plnk", tarfile.DIRTYPE)
    )
    assert tree(tmp_path) == {"keep", "dir", "dir/three"}


@pytest.mark.parametrize("whiteout_last", [False, True])
def test_whiteouts_spare_what_their_own_layer_brings(tmp_path: Path, whiteout_last: bool) -> None:
    """Wherever in the archive they stand."""
    apply(tmp_path, entry("dir/old"), entry("dir/sub/older"), entry("file", data=b"old"))
    brought = [entry("dir/new"), entry("dir/sub/newer"), entry("file", data=b"new")]
    hidden = [entry("dir/.wh..wh..opq"), entry(".wh.file")]
    apply(tmp_path, *(brought + hidden if whiteout_last else hidden + brought))
    assert tree(tmp_path) == {"dir", "dir/new", "dir/sub", "dir/sub/newer", "file"}
    assert (tmp_path / "file").read_bytes() == b"new"


def test_kind_may_change_from_layer_to_layer(tmp_path: Path) -> None:
    """A directory becomes a file and the other way round; a directory that is one again keeps what is in it."""
    apply(tmp_path, entry("was-dir/x"), entry("was-file"), entry("kept/x"), entry("link", tarfile.SYMTYPE, linkname="kept"))
    changed = [entry("was-dir", data=b"now"), entry("was-file", tarfile.DIRTYPE), entry("was-file/y")]
    apply(tmp_path, *changed, entry("kept", tarfile.DIRTYPE, mode=0o711), entry("link/through"))
    assert tree(tmp_path) == {"was-dir", "was-file", "was-file/y", "kept", "kept/x", "kept/through", "link"}
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o711


def test_what_is_the_sandboxs_own_is_left_out(tmp_path: Path) -> None:
    """Device nodes, and whatever would go into its mounts, also by way of a link; its mount points themselves are fine."""
    done = apply(
        tmp_path,
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("disk", tarfile.BLKTYPE, devmajor=8),
        entry("dev/", tarfile.DIRTYPE),
        entry("dev/x"),
        entry("proc/1/mem"),
        entry(".cloister/agent/evil"),
        entry("way", tarfile.SYMTYPE, linkname="proc"),
        entry("way/sys"),
        entry("ok"),
    )
    assert tree(tmp_path) == {"dev", "way", "ok"}
    assert sum(done.skipped.values()) == 6


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([entry("../out")], "leads out"),
        ([entry("a/../../out")], "leads out"),
        ([entry("a/.wh.x/../../b")], "leads out"),
        ([entry("hard", tarfile.LNKTYPE, linkname="../../etc/passwd")], "leads out"),
        ([entry("hard", tarfile.LNKTYPE, linkname="missing")], "hard link"),
        ([entry("hard", tarfile.LNKTYPE, linkname="dev/null")], "hard link"),
        ([entry("./", data=b"x")], "root directory"),
        ([entry(f"f{number}") for number in range(21)], "more than 20 entries"),
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], complaint: str) -> None:
    """And leave nothing outside the tree."""
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InvalidRequestError, match=complaint):
        apply(root, *entries, max_entries=20)
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """Instead of a file that is too short."""
    with archive(entry("big", data=b"x" * 100_000)) as file:
        os.truncate(f"/proc/self/fd/{file.fileno()}", 50_000)
        with pytest.raises((InvalidRequestError, tarfile.TarError)):
            Unpacker(tmp_path, keep_owners=False).unpack(file)


def test_attributes(tmp_path: Path) -> None:
    """Those of the user stay; those of overlay file systems never come in; the others are left out."""
    headers = {"SCHILY.xattr.user.cloister": "ü", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.x": "1"}
    try:
        os.setxattr(tmp_path, "user.probe", b"1")
    except OSError:
        pytest.skip("this machine cannot: no user attributes on the temporary directory's file system")
    apply(tmp_path, entry("file", pax_headers=headers))
    assert os.listxattr(tmp_path / "file") == ["user.cloister"]
    assert os.getxattr(tmp_path / "file", "user.cloister") == "ü".encode()


def test_sparse_files_stay_whole(tmp_path: Path) -> None:
    """As GNU tar stores them."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(3 << 20)
    assert os.system(f"cd {tmp_path} && tar --sparse -cf sparse.tar source") == 0
    root = tmp_path / "root"
    root.mkdir()
    with (tmp_path / "sparse.tar").open("rb") as file:
        Unpacker(root, keep_owners=False).unpack(file)
    assert (root / "source").read_bytes() == source.read_bytes()
