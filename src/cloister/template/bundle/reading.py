"""Opens a bundle and checks all of it before a byte of it is unpacked: the members are the manifest's, each with its digest, and no more.

``cloister bundle`` uses it, and a set-up without a network, before Cloister is installed: ``python -m cloister.template.bundle.reading FILE
DIR [DIGEST]`` writes the wheels to an empty directory. So this module imports the standard library and plain data alone.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cloister.errors import CloisterError
from cloister.template.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, Part, refuse
from cloister.template.bundle.tarstream import BLOCK_BYTES, read_entries

__all__ = ["Bundle", "open_bundle"]

_CHUNK_BYTES = 1 << 20
_MAX_TRAILER_BYTES = 20 * BLOCK_BYTES


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``offsets``: where the content of each part begins in ``file``."""

    file: BinaryIO
    manifest: Manifest
    offsets: Mapping[str, int]
    digest: str
    """SHA-256 of the whole file, as sha256sum(1) prints it."""

    def copy_part(self, part: Part, target: Path) -> None:
        """Write a plain part to the new file ``target``, of mode 0644. Raises: InvalidRequestError if the bundle has changed meanwhile."""
        digest, offset = hashlib.sha256(), self.offsets[part.name]
        with target.open("xb") as written:
            for at in range(0, part.size_bytes, _CHUNK_BYTES):
                chunk = os.pread(self.file.fileno(), min(_CHUNK_BYTES, part.size_bytes - at), offset + at)
                digest.update(chunk)
                written.write(chunk)
        if digest.hexdigest() != part.sha256:
            raise refuse(f"{part.name} has changed while it was read")


class _Reader:
    """Reads the file from its beginning, and hashes all of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        self.whole = hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        if len(chunk) != size:
            raise refuse("it is cut off")
        self.offset += size
        self.whole.update(chunk)
        return chunk

    def digest_of(self, size: int) -> str:
        """SHA-256 of the next ``size`` bytes."""
        digest = hashlib.sha256()
        while size:
            chunk = self.read(min(size, _CHUNK_BYTES))
            digest.update(chunk)
            size -= len(chunk)
        return digest.hexdigest()

    def finish(self) -> None:
        """Read the end of the tar file. Raises: InvalidRequestError if it is anything else."""
        rest = self._file.read(_MAX_TRAILER_BYTES + 1)
        self.whole.update(rest)
        if len(rest) > _MAX_TRAILER_BYTES or any(rest):
            raise refuse("it goes on behind its end")


def open_bundle(file: BinaryIO, expected: str | None = None) -> Bundle:
    """Read and check the bundle ``file``. ``expected``: the SHA-256 that the whole file must have, with or without ``sha256:``.

    Raises: InvalidRequestError: it is damaged, changed or no bundle; it is another one than expected.
    """
    reader = _Reader(file)
    entries = read_entries(reader.read)
    first = next(entries, None)
    if first is None or first.name != MANIFEST or not 0 < first.header.size <= MAX_MANIFEST_BYTES:
        raise refuse("it does not begin with a manifest")
    manifest = Manifest.from_json(reader.read(first.header.size))
    reader.read(first.padding)
    offsets = {}
    for part in manifest.parts:
        entry = next(entries, None)
        if entry is None or (entry.name, entry.header.size, entry.header.type) != (part.name, part.size_bytes, tarfile.REGTYPE):
            raise refuse(f"the part {part.name} of its manifest is not in its place")
        offsets[part.name] = reader.offset
        if reader.digest_of(part.size_bytes) != part.sha256:
            raise refuse(f"{part.name} does not have the manifest's digest")
        reader.read(entry.padding)
    if next(entries, None) is not None:
        raise refuse("it has a part that its manifest does not name")
    reader.finish()
    digest = reader.whole.hexdigest()
    if expected is not None and digest != expected.removeprefix("sha256:").lower():
        raise refuse(f"its digest is sha256:{digest}, and {expected} was expected")
    return Bundle(file, manifest, offsets, digest)


def main(words: list[str]) -> int:
    """Write the wheels of a bundle to a directory. Returns the exit code."""
    path, directory, *expected = words
    try:
        with Path(path).open("rb") as file:
            bundle = open_bundle(file, expected[0] if expected else None)
            for part in bundle.manifest.parts:
                if part.kind == "wheels":
                    bundle.copy_part(part, Path(directory) / part.name.partition("/")[2])
    except (OSError, CloisterError) as error:
        print(f"cloister: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
