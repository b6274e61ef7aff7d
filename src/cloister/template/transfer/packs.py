"""Archives of the store's trees, which other stores fetch.

Owns ``<store>/packed/``: ``<kind>.<key>.json`` has the manifest's row of a tree, and ``<sha256>`` is its archive. A tree is archived
when it is first offered, and the collector removes archives that were not used for a while. Both appear by a rename, the archive first.
Needs: root.
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from cloister import __version__
from cloister.errors import NoCapacityError, NotFoundError, StoreError, TemplateNotFoundError
from cloister.linux.files import make_directory, write_whole
from cloister.linux.trees import tree_size
from cloister.model.template import Template
from cloister.template.agenttree import agent_tree
from cloister.template.bundle.manifest import Part, part_from_json
from cloister.template.bundle.packing import Tree, layer_tree, pack_tree
from cloister.template.layers import LayerStore
from cloister.template.transfer.offer import Offer

__all__ = ["Packs"]

_LEVEL = 1
"""A third of the time of the usual level, and a tenth more bytes."""
_RESERVE_BYTES = 1 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BASE = "base"


class Packs:
    """The archives of ``store``. Every method blocks, and is safe against other processes on the same store."""

    def __init__(self, store: LayerStore) -> None:
        self._store = store
        self._root = store.root / "packed"
        make_directory(self._root)

    def offer(self, name: str) -> bytes:
        """The offer of a stock template, by its name, or of a build, by its id. Archives its trees if there are no archives of them.

        Raises: TemplateNotFoundError, StoreError: also for one with memory. NoCapacityError.
        """
        template, is_build = self._find(name)
        if template.has_memory:
            raise StoreError(f"the template '{name}' has the memory of a sandbox, which stays on its node")
        with self._store.hold(template.layers):
            parts = [self._part(layer_tree(self._store, key), key) for key in dict.fromkeys(template.layers)]
        if not is_build and name == _BASE:
            tree = agent_tree(self._store.root, template)
            self._store.keep([tree])
            parts.append(self._part(Tree(f"agent/{tree.name}.tar.gz", tree), tree.name))
        offer = Offer(version=__version__, machine=platform.machine(), template=template, is_build=is_build, parts=tuple(parts))
        return offer.to_json()

    def open(self, sha256: str) -> BinaryIO:
        """The archive with this digest. Raises: NotFoundError: there is none; a new offer makes it, if its tree is there."""
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError("there is no such archive")
        try:
            file = (self._root / sha256).open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no archive {sha256[:12]} in {self._root}", hint="ask for an offer again") from error
        os.utime(file.fileno())
        return file

    def _find(self, name: str) -> tuple[Template, bool]:
        if self._store.has_build(name):
            return self._store.build(name), True
        if name not in {one.name for one in self._store.records()}:
            raise TemplateNotFoundError(f"there is no stock template and no build '{name}' in {self._store.root}")
        return self._store.template(name), False

    def _part(self, tree: Tree, key: str) -> Part:
        row = self._root / f"{tree.name.partition('/')[0]}.{key}.json"
        with self._store.lock(f"pack.{key}"):
            if (known := self._known(row)) is not None:
                return known
            self._check_room(tree)
            with self._store.workspace(key) as workspace:
                archive = workspace.root / "packed"
                part = pack_tree(tree, archive, _LEVEL)
                archive.chmod(0o600)
                archive.rename(self._root / part.sha256)
            write_whole(row, json.dumps(asdict(part), indent=1))
            return part

    def _known(self, row: Path) -> Part | None:
        """The row of a tree whose archive is there and whole; counts as a use of both."""
        try:
            part = part_from_json(json.loads(row.read_text()))
            archive = self._root / part.sha256
            if archive.stat().st_size != part.size_bytes:
                return None  # a power failure may have cut it off
            os.utime(archive)
            os.utime(row)
        except FileNotFoundError:
            return None
        return part

    def _check_room(self, tree: Tree) -> None:
        room = os.statvfs(self._root)
        needed = (tree_size(tree.root) if tree.layer is None else tree.layer.size_bytes) + _RESERVE_BYTES
        if needed > room.f_bavail * room.f_frsize:
            message = f"the archive of a tree needs up to {needed >> 20} MiB, with a reserve, and {self._root} has less"
            raise NoCapacityError(message, hint="free some space, or set store_dir to another disk")
