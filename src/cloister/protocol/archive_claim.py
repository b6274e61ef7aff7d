"""Whether an uploaded archive is what its client says: the hash that the SDKs make of the files of a ``COPY``, made again of the archive.

The SDKs hash ``COPY {src} {dest}`` and then, in the order of their paths, each file's path, mode, size and content. Owns that rule and
where it cannot be followed; decides nothing. Source: ``calculate_files_hash`` of the Python SDK 2.63, ``calculateFilesHash`` of the
JavaScript SDK 2.51.

Not every honest archive can be checked:

- the JavaScript SDK also hashes the size of a directory, which depends on the client's file system and is in no archive (and its tar
  writer changes the modes of directories that are not searchable);
- of two hard links to one file the archive has the content only once, and the hash has it twice.

So a difference proves something only when the archive holds neither directories nor hard links.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from enum import StrEnum
from typing import BinaryIO

from cloister.protocol.archive import ArchiveReader, Kind, Member

__all__ = ["Claim", "check_claim"]


class Claim(StrEnum):
    """What is known of a client's hash."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


def check_claim(open_archive: Callable[[], BinaryIO], source: str, destination: str, claimed: str) -> tuple[str, Claim]:
    """The archive's digest, and whether ``claimed`` is the hash that a client makes of it for ``COPY source destination``.

    Reads the archive once; a second and a third time, as clients on Windows hash it, when that does not match.

    Raises:
        InvalidArchiveError: it is none.
    """
    claim = Claim.UNKNOWN
    digest = ""
    for separator, link_has_size in (("/", True), ("\\", False), ("/", False)):
        with open_archive() as stream:
            reader = ArchiveReader(stream)
            made, kinds = _hash(reader, source, destination, separator, link_has_size=link_has_size)
        digest = reader.digest()
        if made == claimed:
            return digest, Claim.TRUE
        claim = Claim.UNKNOWN if kinds & {Kind.DIRECTORY, Kind.HARD_LINK} else Claim.FALSE
        if claim is Claim.UNKNOWN:
            break
    return digest, claim


def _hash(reader: ArchiveReader, source: str, destination: str, separator: str, *, link_has_size: bool) -> tuple[str, set[Kind]]:
    whole = hashlib.sha256(f"COPY {source} {destination}".encode("utf-8", "surrogatepass"))
    kinds: set[Kind] = set()
    for member, content in reader:
        kinds.add(member.kind)
        whole.update(_encode(member.name.replace("/", separator)))
        whole.update(_stats(member, link_has_size=link_has_size))
        for chunk in content:
            whole.update(chunk)
        if member.kind is Kind.SYMLINK:
            whole.update(_encode(member.link))
    return whole.hexdigest(), kinds


def _stats(member: Member, *, link_has_size: bool) -> bytes:
    if member.kind is Kind.DIRECTORY:
        return b"%d" % (stat.S_IFDIR | member.mode)
    if member.kind is Kind.SYMLINK:
        return b"%d%d" % (stat.S_IFLNK | member.mode, len(_encode(member.link)) if link_has_size else 0)
    return b"%d%d" % (stat.S_IFREG | member.mode, member.size)


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
