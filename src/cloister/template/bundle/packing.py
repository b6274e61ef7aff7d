"""Archives the tree of a layer, or another tree of the store.

Foreign code wrote the tree (invariant I2): tar(1) reads it without following a link. It may read every file and has no other power of
root. Its output is read back by the code that unpacks it, so that no archive is made that would be refused. The same tree gives the same
archive, as long as tar and zlib are the same. Needs: root, tar, setpriv (util-linux).
"""

from __future__ import annotations

import hashlib
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from cloister.errors import StoreError
from cloister.template.bundle.manifest import LayerPart, Part
from cloister.template.bundle.tarstream import read_entries
from cloister.template.layers import LayerStore

__all__ = ["UNPRIVILEGED", "Tree", "layer_tree", "pack_tree"]

_POWER = "-all,+dac_read_search"
_NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups")
UNPRIVILEGED = ("setpriv", *_NOBODY, f"--inh-caps={_POWER}", f"--ambient-caps={_POWER}", f"--bounding-set={_POWER}", "--no-new-privs", "--")
"""Runs a command that may read all files, and change none but its own. Trees are below directories that only root may enter."""
_TAR = (
    *("tar", "--create", "--format=pax", "--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=user.overlay.opaque"),
    "--pax-option=delete=atime,delete=ctime,delete=mtime,exthdr.name=%d/x/%f",
)
_LEVEL = 6
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Tree:
    """A tree to archive as the part ``name``; ``layer`` is the record of a layer."""

    name: str
    root: Path
    layer: LayerPart | None = None


def layer_tree(store: LayerStore, key: str) -> Tree:
    """The tree of a layer. Raises: StoreError."""
    layer = store.layer(key)
    part = LayerPart(name=layer.name, parent=layer.parent, size_bytes=layer.size_bytes, build_s=layer.build_s)
    return Tree(f"layers/{key}.tar.gz", store.rootfs(key), part)


def pack_tree(tree: Tree, target: Path, level: int = _LEVEL) -> Part:
    """Archive one tree as the new file ``target``. ``level``: of gzip, 1 is the fastest. Raises: StoreError, OSError."""
    entries = content_bytes = 0
    with target.open("xb") as file, subprocess.Popen([*UNPRIVILEGED, *_TAR, "-C", tree.root, "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        packer = _Packer(tar.stdout, file, level)
        for entry in read_entries(packer.read):
            entries, content_bytes = entries + 1, content_bytes + entry.header.size
            for at in range(0, entry.header.size, _CHUNK_BYTES):
                packer.read(min(_CHUNK_BYTES, entry.header.size - at))
            packer.read(entry.padding)
        packer.finish()
    if tar.returncode != 0:
        raise StoreError(f"tar could not read {tree.root} (exit code {tar.returncode})")
    sizes = {"entries": entries, "content_bytes": content_bytes, "stream_bytes": packer.stream_bytes}
    return Part(name=tree.name, sha256=packer.digest.hexdigest(), size_bytes=packer.size_bytes, layer=tree.layer, **sizes)


class _Packer:
    """Compresses what is read through it."""

    def __init__(self, source: IO[bytes], target: BinaryIO, level: int) -> None:
        self._source, self._target = source, target
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, 31)
        self.digest = hashlib.sha256()
        self.size_bytes = self.stream_bytes = 0

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        if len(chunk) != size:
            raise StoreError("tar was cut off")
        self._take(chunk)
        return chunk

    def finish(self) -> None:
        while chunk := self._source.read(_CHUNK_BYTES):
            self._take(chunk)
        self._emit(self._compressor.flush())

    def _take(self, chunk: bytes) -> None:
        self.stream_bytes += len(chunk)
        self._emit(self._compressor.compress(chunk))

    def _emit(self, packed: bytes) -> None:
        self._target.write(packed)
        self.digest.update(packed)
        self.size_bytes += len(packed)
