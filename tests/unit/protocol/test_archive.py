"""Digest and reading of uploaded archives: what is the same, what is refused, and that nothing is believed."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable

import pytest

from cloister.errors import InvalidArchiveError
from cloister.protocol.archive import ArchiveReader, Bounds, Kind, Member, archive_digest


def _member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def _tar(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode=mode, format=kind) as tar:  # type: ignore[call-overload]  # the mode is a parameter
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return into.getvalue()


def _digest(data: bytes, bounds: Bounds | None = None) -> str:
    return archive_digest(io.BytesIO(data), bounds)


_TREE = (
    _member("a", type=tarfile.DIRTYPE, mode=0o755),
    _member("a/one", b"1" * 700),
    _member("a/" + "long/" * 60 + "é", b"2"),
    _member("link", type=tarfile.SYMTYPE, linkname="a/one", mode=0o777),
    _member("hard", type=tarfile.LNKTYPE, linkname="a/one"),
)


def test_digest_does_not_depend_on_the_archive_s_form() -> None:
    """Compression, format, order, times and owners of an archive do not change its digest."""
    digest = _digest(_tar(*_TREE))
    later = [_member(info.name, content, **{**_kind(info), "mtime": 7.5, "uid": 3, "gid": 4, "uname": "x"}) for info, content in _TREE]
    reordered = [later[0], later[2], later[3], later[1], later[4]]
    assert _digest(_tar(*_TREE, kind=tarfile.GNU_FORMAT)) == digest
    assert _digest(_tar(*_TREE, mode="w:gz")) == digest
    assert _digest(_tar(*reordered)) == digest
    assert _digest(_tar(*_TREE) + b"\0" * 20480) == digest
    assert _digest(_tar(*_TREE, *_TREE)) == digest  # Python's SDK 2.3 writes a directory and all that is in it, and then each file again


def _kind(info: tarfile.TarInfo) -> dict[str, object]:
    """Properties of a member, apart from its name and size."""
    return {"type": info.type, "mode": info.mode, "linkname": info.linkname}


@pytest.mark.parametrize(
    "other",
    [
        _member("f", b"datA"),
        _member("g", b"data"),
        _member("f", b"data", mode=0o755),
        _member("f", b"data", mode=0o4644),
        _member("f", b"data\0"),
        _member("f", type=tarfile.SYMTYPE, linkname="data"),
        _member("f", type=tarfile.DIRTYPE),
    ],
    ids=["content", "name", "mode", "setuid", "length", "symlink", "directory"],
)
def test_digest_depends_on_every_file(other: tuple[tarfile.TarInfo, bytes]) -> None:
    """Another name, content, permission or kind makes another digest."""
    assert _digest(_tar(_member("f", b"data"))) != _digest(_tar(other))


def test_targets_of_links_count() -> None:
    """A symlink's target is part of the digest; a hard link counts as the file that it names."""
    one, other = (_tar(_member("l", type=tarfile.SYMTYPE, linkname=target)) for target in ("a", "b"))
    assert _digest(one) != _digest(other)
    linked = _tar(_member("a", b"x"), _member("b", type=tarfile.LNKTYPE, linkname="./a"))
    assert _digest(linked) == _digest(_tar(_member("a", b"x"), _member("b", b"x")))


def test_digest_has_not_changed() -> None:
    """The digest is in the keys of layers: this value may change only together with the version in it."""
    assert _digest(_tar(*_TREE)) == "72ae0a712bfeeae666acf629eb9a6b6450b69b9246ec0970dea2c7007038ae96"


def test_members_are_told_with_their_content() -> None:
    """Names are relative and plain, content comes whole, and content that is not taken is passed over."""
    data = _tar(
        _member(".", type=tarfile.DIRTYPE, mode=0o700),
        _member("./a//b/./c", b"x" * 1000),
        _member("skipped", b"y" * 600_000),
        _member("last", b"z"),
    )
    found = []
    for member, content in ArchiveReader(io.BytesIO(data)):
        found.append((member, b"" if member.name == "skipped" else b"".join(content)))
    assert found[0] == (Member(name=".", kind=Kind.DIRECTORY, mode=0o700, size=0, link=""), b"")
    assert found[1] == (Member(name="a/b/c", kind=Kind.FILE, mode=0o644, size=1000, link=""), b"x" * 1000)
    assert [member.name for member, _ in found[2:]] == ["skipped", "last"]
    assert found[3][1] == b"z"


def _sparse() -> bytes:
    return _tar(_member("s", b"", pax_headers={"GNU.sparse.major": "1"}))


def _damaged() -> bytes:
    data = bytearray(_tar(_member("f", b"data")))
    data[600] ^= 1
    data[148] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: _tar(_member("/etc/passwd", b"x")), "absolute"),
        (lambda: _tar(_member("a/../../b", b"x")), "leads out"),
        (lambda: _tar(_member("..", type=tarfile.DIRTYPE)), "leads out"),
        (lambda: _tar(_member("a", b"x"), _member("./a", b"y")), "twice"),
        (lambda: _tar(_member("d", type=tarfile.DIRTYPE), _member("d/", type=tarfile.DIRTYPE, mode=0o700)), "twice"),
        (lambda: _tar(_member("d", type=tarfile.DIRTYPE), _member("d", b"x")), "twice"),
        (lambda: _tar(_member("d", b"x"), _member("d", type=tarfile.DIRTYPE)), "twice"),
        (lambda: _tar(_member("p", type=tarfile.FIFOTYPE)), "neither file"),
        (lambda: _tar(_member("c", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "neither file"),
        (lambda: _tar(_member("b", type=tarfile.BLKTYPE)), "neither file"),
        (lambda: _tar(_member("h", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "absolute"),
        (lambda: _tar(_member("h", type=tarfile.LNKTYPE, linkname="later"), _member("later", b"x")), "no file before it"),
        (lambda: _tar(_member("d", type=tarfile.DIRTYPE), _member("h", type=tarfile.LNKTYPE, linkname="d")), "no file before it"),
        (lambda: _tar(_member("", b"x")), "no name"),
        (lambda: _tar(_member("x" * 300, b"x")), "too long"),
        (_sparse, "sparse"),
        (_damaged, "damaged"),
        (lambda: b"", "cut off"),
        (lambda: b"PK\3\4" + b"zip" * 400, "not a tar"),
        (lambda: _tar(_member("f", b"data"))[:512], "cut off"),
        (lambda: _tar(_member("f", b"data" * 1000))[:2048], "cut off"),
        (lambda: _tar(_member("f", b"data"))[:1024], "cut off"),
        (lambda: _tar(_member("f", b"data"), mode="w:gz")[:-9], "cut off"),
        (lambda: _tar(_member("f", b"data"), mode="w:gz")[:-8] + b"12345678", "damaged"),
        (lambda: gzip.compress(b"no archive at all" * 100), "not a tar"),
    ],
)
def test_what_is_refused(data: Callable[[], bytes], message: str) -> None:
    """Names that lead elsewhere, other kinds, doubles, and archives that are cut or damaged are refused with the cause."""
    with pytest.raises(InvalidArchiveError, match=message):
        _digest(data())


def test_bounds_hold() -> None:
    """Members, names and bytes are bounded."""
    many = _tar(*(_member(f"f{number}") for number in range(20)))
    for bounds, message in (
        (Bounds(members=19), "more than 19 members"),
        (Bounds(name_bytes=40), "names in the archive"),
        (Bounds(total_bytes=8192), "longer than 8192 bytes"),
    ):
        with pytest.raises(InvalidArchiveError, match=message):
            _digest(many, bounds)


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    """A gzip file that unpacks to a gigabyte of zeros, or a header of that size, takes neither memory nor much time."""
    header = tarfile.TarInfo("big")
    header.size = 1 << 30
    extra = tarfile.TarInfo("x")
    extra.type, extra.size = tarfile.XHDTYPE, 1 << 30
    zeros = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchiveError, match="longer than"):
            _digest(gzip.compress(header.tobuf()) + zeros * 4, Bounds(total_bytes=128 << 20))
        with pytest.raises(InvalidArchiveError, match="impossible size"):
            _digest(gzip.compress(extra.tobuf()) + zeros)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_global_headers_that_name_nothing_are_passed_over() -> None:
    """An archive of ``git archive`` has its commit in a global header; one that names a file there is refused."""
    plain = _tar(_member("f", b"data"))
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "5b1fe2a"}) as tar:
        tar.addfile(*_with_file(_member("f", b"data")))
    assert _digest(into.getvalue()) == _digest(plain)
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "other"}) as tar:
        tar.addfile(*_with_file(_member("f", b"data")))
    with pytest.raises(InvalidArchiveError, match="global header"):
        _digest(into.getvalue())


def _with_file(member: tuple[tarfile.TarInfo, bytes]) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return member[0], io.BytesIO(member[1])


def test_changed_bytes_never_crash_it() -> None:
    """Whatever bytes are changed, cut or repeated, the answer is a digest or InvalidArchiveError."""
    chance = random.Random(7)
    originals = [_tar(*_TREE), _tar(*_TREE, kind=tarfile.GNU_FORMAT), _tar(*_TREE, mode="w:gz")]
    for _ in range(3000):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at:]
                case 2:
                    data[at:at] = data[:512]
                case _:
                    data[at : at + 12] = chance.choice([b"\x80" + b"\xff" * 11, b"99999999999\0", b"-1          ", b"path=/x\n1234"])
            data = data or bytearray(b"x")
        with contextlib.suppress(InvalidArchiveError):
            assert len(_digest(bytes(data), Bounds(total_bytes=1 << 22))) == 64
