"""The garbage collector of the store: removes unused layers, agent trees, host layers, archives, cache records, logs and locks.

A tree is in use if

- the record of a template or build names it, or
- a process holds it by a lock (supervisors hold the trees of their sandboxes and zones, builds the layers they build upon), or
- the journal of a server on this host names it for a sandbox that lives on without a supervisor.

A layer in use, or used lately, keeps its ancestors. "Lately" is a long time for layers that a build may find by their key, and a short
one for those of snapshots and forks. An unreadable record is an error and never counts as unused.

The collector claims a tree, then reads the journals, then moves the tree into ``tmp`` by one rename. After a crash the next sweep
removes it from there. Children go before their parents. The collector reads no file of a tree (I2).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import StoreError, TemplateNotFoundError
from cloister.linux.treelocks import try_lock
from cloister.linux.trees import remove_tree, tree_size
from cloister.template.agenttree import agent_template, agent_tree, library_layers
from cloister.template.layers import CAPTURE, Layer, LayerStore

__all__ = ["GarbageCollector", "RemovedItem", "TreesInUse"]

_MIN_AGE_S = 900.0
"""Later used trees stay, whatever retention a caller asks for: a build may be about to take them."""


@dataclass(frozen=True)
class TreesInUse:
    """The trees of the live sandboxes of all servers. ``is_whole`` False: the trees of some sandboxes are unknown."""

    trees: frozenset[Path]
    is_whole: bool = True


@dataclass(frozen=True)
class RemovedItem:
    """A removed item, or one that a rehearsal would remove."""

    kind: str
    name: str
    size_bytes: int


class GarbageCollector:
    """Collects in one store, and in directories of host layers."""

    def __init__(self, store: LayerStore, trees_in_use: Callable[[], TreesInUse], host_layers: Iterable[Path] = ()) -> None:
        """``trees_in_use`` is called when all candidates are claimed. ``host_layers``: directories that hold host layers."""
        self._store = store
        self._trees_in_use = trees_in_use
        self._host_layers = tuple(host_layers)

    def sweep(self) -> None:
        """Remove what dead builds and collections have left in ``tmp``."""
        with self._store.lock("collect"):
            self._store.sweep()

    def collect(self, retention_s: float, *, is_rehearsal: bool = False) -> list[RemovedItem]:
        """Remove what was not used for ``retention_s`` and return it. A rehearsal removes nothing.

        Raises: StoreError: a record cannot be read; then nothing is removed.
        """
        now = time.time()
        before = now - max(retention_s, _MIN_AGE_S)
        with self._store.lock("collect"), contextlib.ExitStack() as claims:
            if not is_rehearsal:
                self._store.sweep()
            gone = self._layers(before, now - _MIN_AGE_S, claims) + self._trees(before, claims)
            live = self._trees_in_use()
            gone = [one for one in gone if live.is_whole and one.tree not in live.trees]
            gone = self._with_whole_chains(gone)
            removed = [RemovedItem(one.kind, *one.describe()) for one in gone]
            if not is_rehearsal:
                for one in gone:
                    self._remove(one.path)
        lost = {one.path.name for one in gone if one.kind == "layer"}
        return removed + self._files(before, lost, is_rehearsal=is_rehearsal)

    # ---- what may go ----

    def _layers(self, before: float, captures_before: float, claims: contextlib.ExitStack) -> list[_Candidate]:
        """Unused layers, claimed, each before its parents. Those of snapshots and forks have a time of their own: no build finds them."""
        layers = {path.name: self._layer(path.name) for path in (self._store.root / "layers").iterdir()}
        parents = {key: None if layer is None else layer.parent for key, layer in layers.items()}
        kept = self._referenced()
        for key, layer in layers.items():
            is_capture = layer is not None and layer.name.endswith(CAPTURE)
            if _used_at(self._store.root / "layers" / key) > (captures_before if is_capture else before):
                kept.add(key)
        unused = []
        for key in sorted(parents.keys() - _with_ancestors(kept, parents), key=lambda key: -len(_ancestors(key, parents))):
            path = self._store.root / "layers" / key
            unused.append(_Candidate("layer", key, path, self._store.rootfs(key), parents[key]))
        return _claimed(unused, claims)

    def _trees(self, before: float, claims: contextlib.ExitStack) -> list[_Candidate]:
        """Unused agent trees and host layers, claimed."""
        kept = self._present_tree()
        found = [("agent tree", path) for path in (self._store.root / "agent").iterdir() if path != kept]
        for directory in self._host_layers:
            found += [("host layer", path) for path in directory.iterdir() if not path.name.startswith(".")] if directory.is_dir() else []
        return _claimed([_Candidate(kind, path.name, path, path, None) for kind, path in found if _used_at(path) < before], claims)

    def _present_tree(self) -> Path | None:
        """The agent tree of the present version, which the next server takes."""
        with contextlib.suppress(TemplateNotFoundError):
            return agent_tree(self._store.root, agent_template(self._store))
        return None

    def _referenced(self) -> set[str]:
        """The layers that records name, and those of the agent's libraries. Raises: StoreError."""
        keys = {key for template in (*self._store.records(), *self._store.builds()) for key in template.layers}
        with contextlib.suppress(TemplateNotFoundError):
            keys.update(library_layers(agent_template(self._store)))
        return keys

    def _layer(self, key: str) -> Layer | None:
        with contextlib.suppress(StoreError):  # an unreadable layer cannot be used either
            return self._store.layer(key)
        return None

    def _parent(self, key: str) -> str | None:
        layer = self._layer(key)
        return None if layer is None else layer.parent

    def _with_whole_chains(self, gone: list[_Candidate]) -> list[_Candidate]:
        """Without the ancestors of layers that stay after all."""
        going = {one.name for one in gone if one.kind == "layer"}
        parents = {path.name: self._parent(path.name) for path in (self._store.root / "layers").iterdir()}
        kept = _with_ancestors(parents.keys() - going, parents)
        return [one for one in gone if one.kind != "layer" or one.name not in kept]

    # ---- removal ----

    def _remove(self, path: Path) -> None:
        aside = self._store.root / "tmp" / f"{path.name[:16]}.gone.{secrets.token_hex(4)}"
        try:
            path.rename(aside)
        except OSError:  # a host layer may be on another file system; it is ours, and unused
            remove_tree(path)
        remove_tree(aside)

    def _files(self, before: float, lost: set[str], *, is_rehearsal: bool) -> list[RemovedItem]:
        """Remove logs, locks and archives of transfers that are old, and cache records that are old or lack their layers."""
        root = self._store.root
        kinds = {"logs": "log", "locks": "lock", "packed": "archive", "incoming": "archive"}
        old = [(kind, path) for name, kind in kinds.items() for path in (root / name).glob("*")]
        going = [(kind, path) for kind, path in old if _used_at(path) < before]
        for directory in (root / "steps", root / "images" / "made", root / "images" / "pulled"):
            for path in directory.glob("*.json") if directory.is_dir() else ():
                layers = _layers_of_record(path)
                missing = any(key in lost or not self._store.has(key) for key in layers)
                if missing or (not layers and _used_at(path) < before):
                    going.append(("record", path))
        found = []
        for kind in sorted({kind for kind, _path in going}):
            paths = [path for one, path in going if one == kind]
            found.append(RemovedItem(f"{kind}s", f"{len(paths)} files", sum(_size(path) for path in paths)))
        for _kind, path in () if is_rehearsal else going:
            path.unlink(missing_ok=True)
        return found


@dataclass(frozen=True)
class _Candidate:
    kind: str
    name: str
    path: Path
    """The directory that is moved away."""
    tree: Path
    """The directory that users hold by a lock."""
    parent: str | None

    def describe(self) -> tuple[str, int]:
        """A readable name, and the bytes on disk."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((self.path / "layer.json").read_text())  # only layers have one
            return f"{self.name[:12]} {record['name']}", int(record["size_bytes"])
        return self.name[:12], tree_size(self.path)


def _claimed(candidates: list[_Candidate], claims: contextlib.ExitStack) -> list[_Candidate]:
    """The candidates without a holder. The end of ``claims`` releases them."""
    found = []
    for one in candidates:
        with contextlib.suppress(OSError):  # another process has removed it, or is making it
            claim = try_lock(one.tree)
            if claim is not None:
                claims.callback(os.close, claim)
                found.append(one)
    return found


def _ancestors(key: str, parents: dict[str, str | None]) -> list[str]:
    found: list[str] = []
    parent = parents.get(key)
    while parent is not None and parent not in found:
        found.append(parent)
        parent = parents.get(parent)
    return found


def _with_ancestors(keys: Iterable[str], parents: dict[str, str | None]) -> set[str]:
    found = set(keys)
    return found.union(*(_ancestors(key, parents) for key in found))


def _used_at(path: Path) -> float:
    """When it was used last. A path that has gone meanwhile counts as just used."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _layers_of_record(path: Path) -> tuple[str, ...]:
    """The layers that a cache record names. An unreadable record names none, as for its readers."""
    try:
        data = json.loads(path.read_text())
        found = data.get("layers", ()) if isinstance(data, dict) else ()
        single = data.get("layer") if isinstance(data, dict) else None
    except (OSError, ValueError):
        return ()
    return tuple(str(key) for key in [*found, *([single] if single else [])])
