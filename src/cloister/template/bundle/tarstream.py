"""Reads a tar stream entry by entry, strictly: what GNU tar writes with ``--format=pax``, and nothing else.

Python's ``tarfile`` reads headers of any size into memory and takes many dialects, which is too much for a file from elsewhere. This module
uses it to decode one header block and must not create a file. Source: POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloister.template.bundle.manifest import refuse

__all__ = ["BLOCK_BYTES", "Entry", "read_entries"]

BLOCK_BYTES = 512
_MAX_PAX_BYTES = 64 << 10
_TAKEN = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
_XATTR = "SCHILY.xattr."

Read = Callable[[int], bytes]
"""Returns exactly this many bytes of the stream. Raises InvalidRequestError at its end."""


@dataclass(frozen=True)
class Entry:
    """One entry. Its ``size`` bytes follow in the stream, padded to whole blocks; the caller reads them before the next entry."""

    header: tarfile.TarInfo
    name: str
    target: str
    """Of a symbolic or hard link."""
    xattrs: dict[str, str] = field(default_factory=dict)

    @property
    def padding(self) -> int:
        """Bytes after its content."""
        return -self.header.size % BLOCK_BYTES


def read_entries(read: Read) -> Iterator[Entry]:
    """Each entry of the stream, to its end, which it checks. Raises: InvalidRequestError for another kind of entry or a damaged one."""
    while True:
        header = _header(read(BLOCK_BYTES))
        if header is None:
            return
        extended: dict[str, str] = {}
        if header.type == tarfile.XHDTYPE:
            if header.size > _MAX_PAX_BYTES:
                raise refuse(f"an extended header has {header.size} bytes")
            extended = _records(read(header.size + -header.size % BLOCK_BYTES)[: header.size])
            header = _header(read(BLOCK_BYTES))
        if header is None or header.type not in _TAKEN:
            raise refuse(f"an entry has the kind {'end' if header is None else header.type!r}")
        if header.size and header.type != tarfile.REGTYPE:
            raise refuse(f"the entry {header.name!r} has content")
        if "size" in extended:
            header.size = int(extended.pop("size"))
        name, target = extended.pop("path", header.name), extended.pop("linkpath", header.linkname)
        unknown = [key for key in extended if not key.startswith(_XATTR)]
        if unknown:
            raise refuse(f"the entry {name!r} has the attribute {unknown[0]!r}")
        yield Entry(header, name.removesuffix("/"), target, {key.removeprefix(_XATTR): text for key, text in extended.items()})


def _header(block: bytes) -> tarfile.TarInfo | None:
    if not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise refuse(f"a header of an archive is damaged: {error}") from error
    if header.size < 0:
        raise refuse("an entry has a negative size")
    return header


def _records(text: bytes) -> dict[str, str]:
    """The records ``<length> <key>=<value>`` of an extended header, each with a line end."""
    found: dict[str, str] = {}
    while text:
        digits, space, _ = text.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = text[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(text) or text[length - 1 : length] != b"\n" or b"\0" in value:
            raise refuse("an extended header is malformed")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        text = text[length:]
    size = found.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise refuse("an extended header is malformed")
    return found
