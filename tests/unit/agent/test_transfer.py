"""The pure parts of file transfer: paths, signatures, codings, forms, metadata, names, events."""

from __future__ import annotations

import errno
import gzip
import struct

import pytest
from e2b.sandbox.signature import get_signature

from cloister.agent.filesystem.entries import permissions_text
from cloister.agent.filesystem.faults import fault_of
from cloister.agent.filesystem.inotify import CREATE, MODIFY, parse_events
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.watch import is_network_mount
from cloister.agent.transfer.access import check_access
from cloister.agent.transfer.compose import parse_compose
from cloister.agent.transfer.disposition import parse_disposition
from cloister.agent.transfer.encoding import Inflater, choose_encoding
from cloister.agent.transfer.metadata import metadata_of
from cloister.errors import AuthenticationError, InvalidRequestError, NoCapacityError, NotFoundError, PermissionDeniedError


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", "/a/b"),
        ("a/b", "/home/user/a/b"),
        ("", "/work"),
        ("~", "/home/user"),
        ("~/a", "/home/user/a"),
        ("../x", "/home/x"),
        ("/a/../../b//c/./", "/b/c"),
        ("//a", "/a"),
        ("a~", "/home/user/a~"),
        ("é\n", "/home/user/é\n"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    """Paths become absolute and normal."""
    assert resolve_path(path, "/home/user", "/work") == expected


@pytest.mark.parametrize("path", ["a\0b", "~other/x"])
def test_impossible_paths(path: str) -> None:
    """NUL and foreign homes are refused."""
    with pytest.raises(InvalidRequestError):
        resolve_path(path, "/home/user", "/work")


def signed(expires_in: int | None = None) -> dict[str, str]:
    """A query as the official SDK signs it for reading ``/x``."""
    made = get_signature("/x", "read", None, "token", expires_in)
    query = {"path": "/x", "signature": made["signature"]}
    return query if made["expiration"] is None else query | {"signature_expiration": str(made["expiration"])}


def test_access_by_header_and_by_signature() -> None:
    """The token in the header or a signature opens; without a token in the sandbox everything does."""
    check_access("GET", {}, None, None)
    check_access("GET", {}, "token", "token")
    check_access("GET", signed(), None, "token")
    check_access("HEAD", signed(60), None, "token")


@pytest.mark.parametrize(
    ("method", "query", "header", "message"),
    [
        ("GET", {}, None, "missing signature query parameter"),
        ("GET", signed() | {"path": "/y"}, None, "invalid signature"),
        ("POST", signed(), None, "invalid signature"),
        ("GET", signed() | {"username": "root"}, None, "invalid signature"),
        ("GET", signed(-10), None, "signature is already expired"),
        ("GET", signed(60) | {"signature_expiration": "9999999999"}, None, "invalid signature"),
        ("GET", signed(), "wrong", "access token present in header but does not match"),
        ("GET", signed(), "w\udc80", "access token present in header but does not match"),
    ],
)
def test_refused_access(method: str, query: dict[str, str], header: str | None, message: str) -> None:
    """Everything else is refused with the published text."""
    with pytest.raises(AuthenticationError) as caught:
        check_access(method, query, header, "token")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip, deflate, br", "identity"),
        ("gzip, identity;q=0", "gzip"),
        ("br", "identity"),
        ("*;q=0", None),
        ("identity;q=0", None),
        ("identity;q=0, *", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=x", "identity"),
    ],
)
def test_encodings(accept: str | None, expected: str | None) -> None:
    """Gzip for those who ask for just that, the bytes as they are for all others."""
    assert choose_encoding(accept) == expected


def inflate(data: bytes, step: int) -> bytes:
    """All that an Inflater gives when fed ``step`` bytes at a time."""
    inflater = Inflater()
    parts = [piece for at in range(0, len(data), step) for piece in inflater.feed(data[at : at + step])]
    return b"".join([*parts, *inflater.finish()])


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_inflating(step: int) -> None:
    """One member or several, however cut."""
    assert inflate(gzip.compress(b"a" * 5000) + gzip.compress(b"b" * 9), step) == b"a" * 5000 + b"b" * 9


def test_a_bomb_comes_in_pieces() -> None:
    """A small body that becomes a large file is never large in memory."""
    pieces = list(Inflater().feed(gzip.compress(bytes(64 << 20))))
    assert max(map(len, pieces)) <= 1 << 20
    assert sum(map(len, pieces)) == 64 << 20


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"x" * 100)[:-1], gzip.compress(b"x") + b"junk"])
def test_broken_gzip(data: bytes) -> None:
    """An incomplete gzip stream is an error, not a shorter file."""
    with pytest.raises(InvalidRequestError):
        inflate(data, 10)


@pytest.mark.parametrize(
    ("header", "name", "filename"),
    [
        ('form-data; name="file"; filename="/home/user/a b"', "file", "/home/user/a b"),
        ('form-data; name="file"; filename="a%22b%0Ac"', "file", 'a"b\nc'),
        (r'form-data; name="file"; filename="a\"b\\c"', "file", r'a"b\c'),
        (r'form-data; name="file"; filename="a\b"', "file", r"a\b"),
        ('form-data; name="file"; filename="é;x=y"', "file", "é;x=y"),
        ("form-data; name=file; filename=x", "file", "x"),
        ('form-data; name="file"; filename="_"; filename*=UTF-8\'\'%C3%A9', "file", "é"),
        ('form-data; name="other"', "other", None),
        ("", None, None),
    ],
)
def test_dispositions(header: str, name: str | None, filename: str | None) -> None:
    """File names are whole paths, as the official clients write them."""
    found = parse_disposition(header)
    assert (found.name, found.filename) == (name, filename)


def test_metadata() -> None:
    """Keys are lower case; other headers are none."""
    assert metadata_of([("X-Metadata-Author", "me"), ("x-metadata-a.b", ""), ("Host", "x")]) == {"author": "me", "a.b": ""}


@pytest.mark.parametrize(
    "header", [("X-Metadata-", "v"), ("X-Metadata-" + "k" * 300, "v"), ("X-Metadata-k", "é"), ("X-Metadata-k", "v" * 5000)]
)
def test_impossible_metadata(header: tuple[str, str]) -> None:
    """Empty and long keys, other characters and too much are refused."""
    with pytest.raises(InvalidRequestError):
        metadata_of([header])


@pytest.mark.parametrize(
    ("mode", "text"),
    [(0o100644, "-rw-r--r--"), (0o40755, "drwxr-xr-x"), (0o120777, "Lrwxrwxrwx"), (0o41777, "dtrwxrwxrwx"), (0o104755, "urwxr-xr-x")],
)
def test_permissions(mode: int, text: str) -> None:
    """Modes are written as this API's clients know them."""
    assert permissions_text(mode) == text


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, NotFoundError),
        (errno.EACCES, PermissionDeniedError),
        (errno.ENOSPC, NoCapacityError),
        (errno.ENOTDIR, InvalidRequestError),
    ],
)
def test_faults(number: int, kind: type[Exception]) -> None:
    """Errors of the kernel have kinds of their own, and never show a whole endless path."""
    error = fault_of(OSError(number, "x"), "p" * 10_000)
    assert isinstance(error, kind)
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"source_paths": [], "destination": "x"}',
        b'{"source_paths": ["a"]}',
        b'{"source_paths": [1], "destination": "x"}',
    ],
)
def test_impossible_compositions(body: bytes) -> None:
    """A composition needs sources and a destination."""
    with pytest.raises(InvalidRequestError):
        parse_compose(body)


def test_inotify_events() -> None:
    """Events of one read are taken apart, padding and foreign bytes in names included."""
    data = struct.pack("=iIII", 1, CREATE, 0, 16) + b"name".ljust(16, b"\0") + struct.pack("=iIII", 2, MODIFY, 7, 0)
    data += struct.pack("=iIII", 3, MODIFY, 0, 4) + b"\xff\0\0\0"
    assert [(one.wd, one.mask, one.cookie, one.name) for one in parse_events(data)] == [
        (1, CREATE, 0, "name"),
        (2, MODIFY, 7, ""),
        (3, MODIFY, 0, "\udcff"),
    ]


def test_network_mounts() -> None:
    """A device number is looked up in the table of mounts."""
    mounts = "30 1 0:50 / /mnt rw - nfs4 server:/x rw\n31 1 0:51 / / rw - overlay overlay rw\n"
    assert is_network_mount(50, mounts)
    assert not is_network_mount(51, mounts)
    disk = "1 0 0:52 / / rw - 9p none rw\n2 1 0:53 / /remote rw - 9p none rw\n3 1 0:52 /home /home rw - 9p none rw\n"
    assert not is_network_mount(52, disk)
    assert is_network_mount(53, disk)
