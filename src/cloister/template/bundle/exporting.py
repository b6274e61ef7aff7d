"""Writes a bundle: archives of the layers of some templates and of the agent's tree, programs, and wheels.

:mod:`cloister.template.bundle.packing` reads the trees. Runs in: ``cloister bundle export``. Needs: root, tar, setpriv.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from cloister import __version__
from cloister.linux.files import sync_path
from cloister.template.agenttree import agent_tree, library_layers
from cloister.template.bundle.manifest import MANIFEST, Manifest, Part
from cloister.template.bundle.packing import Tree, layer_tree, pack_tree
from cloister.template.layers import LayerStore

__all__ = ["export_bundle"]

_CHUNK_BYTES = 1 << 20


def export_bundle(target: Path, store: LayerStore, names: Iterable[str], programs: Mapping[str, Path], wheels: Iterable[Path]) -> str:
    """Write the templates ``names``, and ``base`` with the agent, to the new file ``target``. Returns its SHA-256.

    ``programs``: ``runsc``, a file, and ``criu``, a directory. Raises: TemplateNotFoundError, StoreError, OSError.
    """
    templates = [store.template(name) for name in dict.fromkeys(("base", *names))]
    libraries = [key for key in library_layers(templates[0]) if store.has(key)]  # the agent's tree can be built again without a network
    keys = list(dict.fromkeys(key for layers in (*(one.layers for one in templates), libraries) for key in layers))
    agent = agent_tree(store.root, templates[0])
    trees = [layer_tree(store, key) for key in keys] + [Tree(f"agent/{agent.name}.tar.gz", agent)]
    trees += [Tree("criu.tar.gz", programs["criu"])] if "criu" in programs else []
    files = [("runsc", programs["runsc"])] if "runsc" in programs else []
    files += [(f"wheels/{path.name}", path) for path in sorted(wheels)]
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".cloister-bundle-", dir=target.absolute().parent)))
        stack.enter_context(store.hold(keys))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            packed = list(pool.map(lambda number: pack_tree(trees[number], work / str(number)), range(len(trees))))
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
