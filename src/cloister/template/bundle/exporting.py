"""Writes a bundle: archives of the layers of some templates and of the agent's tree, programs, and wheels.

A tree was written by foreign code (invariant I2): tar(1) reads it without following a link, and its output is read back here by the code
that an import uses, so that a bundle which cannot be imported is not written. Runs in: ``cloister bundle export``. Needs: root, tar.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from cloister import __version__
from cloister.errors import StoreError
from cloister.linux.files import sync_path
from cloister.template.agenttree import agent_tree, library_layers
from cloister.template.bundle.manifest import MANIFEST, LayerPart, Manifest, Part
from cloister.template.bundle.tarstream import read_entries
from cloister.template.layers import LayerStore

__all__ = ["export_bundle"]

_TAR = (
    *("tar", "--create", "--format=pax", "--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=user.overlay.opaque"),
    "--pax-option=delete=atime,delete=ctime,delete=mtime,exthdr.name=%d/x/%f",
)
_LEVEL = 6
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Tree:
    name: str
    root: Path
    layer: LayerPart | None = None


def export_bundle(target: Path, store: LayerStore, names: Iterable[str], programs: Mapping[str, Path], wheels: Iterable[Path]) -> str:
    """Write the templates ``names``, and ``base`` with the agent, to the new file ``target``. Returns its SHA-256.

    ``programs``: ``runsc``, a file, and ``criu``, a directory. Raises: TemplateNotFoundError, StoreError, OSError.
    """
    templates = [store.template(name) for name in dict.fromkeys(("base", *names))]
    libraries = [key for key in library_layers(templates[0]) if store.has(key)]  # the agent's tree can be built again without a network
    keys = list(dict.fromkeys(key for layers in (*(one.layers for one in templates), libraries) for key in layers))
    agent = agent_tree(store.root, templates[0])
    trees = [_layer(store, key) for key in keys] + [_Tree(f"agent/{agent.name}.tar.gz", agent)]
    trees += [_Tree("criu.tar.gz", programs["criu"])] if "criu" in programs else []
    files = [("runsc", programs["runsc"])] if "runsc" in programs else []
    files += [(f"wheels/{path.name}", path) for path in sorted(wheels)]
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".cloister-bundle-", dir=target.absolute().parent)))
        stack.enter_context(store.hold(keys))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            packed = list(pool.map(lambda number: _pack(trees[number], work / str(number)), range(len(trees))))
        contents = [(part, work / str(number)) for number, part in enumerate(packed)]
        contents += [(_file_part(name, path), path) for name, path in files]
        records = tuple(replace(one, created_at=0.0) for one in templates)  # so that bundles of one store are equal
        parts = tuple(part for part, _ in contents)
        manifest = Manifest(version=__version__, machine=platform.machine(), templates=records, parts=parts)
        written = work / "bundle"
        with written.open("wb") as file:
            digest = _write(file, manifest, contents)
        written.chmod(0o644)
        sync_path(written)
        os.link(written, target)  # fails if the target exists
        return digest


def _layer(store: LayerStore, key: str) -> _Tree:
    layer = store.layer(key)
    part = LayerPart(name=layer.name, parent=layer.parent, size_bytes=layer.size_bytes, build_s=layer.build_s)
    return _Tree(f"layers/{key}.tar.gz", store.rootfs(key), part)


class _Packer:
    """Compresses what is read through it."""

    def __init__(self, source: IO[bytes], target: BinaryIO) -> None:
        self._source, self._target = source, target
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
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


def _pack(tree: _Tree, target: Path) -> Part:
    """Archive one tree as the new file ``target``."""
    entries = content_bytes = 0
    with target.open("xb") as file, subprocess.Popen([*_TAR, "-C", tree.root, "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        packer = _Packer(tar.stdout, file)
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


def _file_part(name: str, path: Path) -> Part:
    with path.open("rb") as file:
        return Part(name=name, sha256=hashlib.file_digest(file, "sha256").hexdigest(), size_bytes=path.stat().st_size)


class _Hashing(io.BytesIO):
    """Writes through to a file, and hashes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, chunk: Any, /) -> int:
        self.digest.update(chunk)
        return self._file.write(chunk)


def _write(file: BinaryIO, manifest: Manifest, contents: list[tuple[Part, Path]]) -> str:
    hashing = _Hashing(file)
    with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        document = manifest.to_json()
        tar.addfile(_header(MANIFEST, len(document)), io.BytesIO(document))
        for part, path in contents:
            with path.open("rb") as content:
                tar.addfile(_header(part.name, part.size_bytes), content)
    return hashing.digest.hexdigest()


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header
