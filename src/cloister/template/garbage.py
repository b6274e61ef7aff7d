"""Removes from the store what nothing uses any more: layers, agent trees, host layers, cache records, logs.

In use is what a record of a template or build names, what a process holds by a lock (supervisors hold what their sandboxes and zones
stand on, builds what they build upon), and what the journal of any server of the host says of sandboxes that live on without a
supervisor. A layer in use, or used lately, keeps those that it was made on. What cannot be read is an error, never taken for unused.

A thing is claimed first, then the journals are read, then it leaves its place by one rename into ``tmp``, where a crash leaves it to the
next sweep. Children go before their parents. Nothing is looked into (I2).
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
from cloister.linux.holds import try_claim
from cloister.linux.trees import remove_tree, tree_size
from cloister.template.agenttree import agent_tree, library_layers
from cloister.template.layers import LayerStore

__all__ = ["Collector", "LiveTrees", "Removed"]

_MIN_AGE_S = 900.0
"""What was used more lately stays, whatever is asked for: a build may be about to take it."""
_BASE = "base"


@dataclass(frozen=True)
class LiveTrees:
    """Directories that live sandboxes of all servers stand on. Not ``is_whole``: there are sandboxes of which that is not known."""

    trees: frozenset[Path]
    is_whole: bool = True


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be."""

    kind: str
    name: str
    size_bytes: int


class Collector:
    """Collects in one store, and in directories of host layers."""

    def __init__(self, store: LayerStore, live_trees: Callable[[], LiveTrees], host_layers: Iterable[Path] = ()) -> None:
        """``live_trees`` is asked after everything that may go was claimed. ``host_layers``: directories that hold host layers."""
        self._store = store
        self._live_trees = live_trees
        self._host_layers = tuple(host_layers)

    def sweep(self) -> None:
        """Remove what builds and collections that died have left half-made."""
        with self._store.lock("collect"):
            self._store.sweep()

    def collect(self, retention_s: float, *, is_rehearsal: bool = False) -> list[Removed]:
        """Remove what was not used for ``retention_s``; says what. A rehearsal removes nothing.

        Raises: StoreError: a record cannot be read; nothing was removed then.
        """
        before = time.time() - max(retention_s, _MIN_AGE_S)
        with self._store.lock("collect"), contextlib.ExitStack() as claims:
            if not is_rehearsal:
                self._store.sweep()
            gone = self._layers(before, claims) + self._trees(before, claims)
            live = self._live_trees()
            gone = [one for one in gone if live.is_whole and one.tree not in live.trees]
            gone = self._with_whole_chains(gone)
            removed = [Removed(one.kind, *one.describe()) for one in gone]
            if not is_rehearsal:
                for one in gone:
                    self._remove(one.path)
        lost = {one.path.name for one in gone if one.kind == "layer"}
        return removed + self._files(before, lost, is_rehearsal=is_rehearsal)

    # ---- what may go ----

    def _layers(self, before: float, claims: contextlib.ExitStack) -> list[_Candidate]:
        """Unused layers, claimed, each before those that it stands on."""
        parents = {path.name: self._parent(path.name) for path in (self._store.root / "layers").iterdir()}
        kept = self._referenced()
        kept |= {key for key in parents if _used_at(self._store.root / "layers" / key) > before}
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
        """The agent tree that the next server to start takes."""
        with contextlib.suppress(TemplateNotFoundError):
            return agent_tree(self._store.root, self._store.template(_BASE))
        return None

    def _referenced(self) -> set[str]:
        """Layers that records name, and those of the agent's libraries. Raises: StoreError."""
        keys = {key for template in (*self._store.records(), *self._store.builds()) for key in template.layers}
        with contextlib.suppress(TemplateNotFoundError):
            keys.update(library_layers(self._store.template(_BASE)))
        return keys

    def _parent(self, key: str) -> str | None:
        with contextlib.suppress(StoreError):  # it cannot be used either
            return self._store.layer(key).parent
        return None

    def _with_whole_chains(self, gone: list[_Candidate]) -> list[_Candidate]:
        """Without the layers on which one stands that stays after all."""
        going = {one.name for one in gone if one.kind == "layer"}
        parents = {path.name: self._parent(path.name) for path in (self._store.root / "layers").iterdir()}
        kept = _with_ancestors(parents.keys() - going, parents)
        return [one for one in gone if one.kind != "layer" or one.name not in kept]

    # ---- removal ----

    def _remove(self, path: Path) -> None:
        aside = self._store.root / "tmp" / f"{path.name[:16]}.gone.{secrets.token_hex(4)}"
        try:
            path.rename(aside)
        except OSError:  # a host layer may be on another file system: it has no readers, and is ours
            remove_tree(path)
        remove_tree(aside)

    def _files(self, before: float, lost: set[str], *, is_rehearsal: bool) -> list[Removed]:
        """Logs, cache records whose layers are gone or that nobody asked for, and locks."""
        root = self._store.root
        old = [("log", path) for path in (root / "logs").iterdir()] + [("lock", path) for path in (root / "locks").iterdir()]
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
            found.append(Removed(f"{kind}s", f"{len(paths)} files", sum(_size(path) for path in paths)))
        for _kind, path in () if is_rehearsal else going:
            path.unlink(missing_ok=True)
        return found


@dataclass(frozen=True)
class _Candidate:
    kind: str
    name: str
    path: Path
    """What is renamed away."""
    tree: Path
    """What users hold."""
    parent: str | None

    def describe(self) -> tuple[str, int]:
        """A name for people, and bytes on disk."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((self.path / "layer.json").read_text())  # only layers have one
            return f"{self.name[:12]} {record['name']}", int(record["size_bytes"])
        return self.name[:12], tree_size(self.path)


def _claimed(candidates: list[_Candidate], claims: contextlib.ExitStack) -> list[_Candidate]:
    """Those that nobody holds; ``claims`` lets go of them."""
    found = []
    for one in candidates:
        with contextlib.suppress(OSError):  # gone meanwhile, or without a tree: somebody else's work
            claim = try_claim(one.tree)
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
    """When it was used last; what has gone meanwhile is none of ours."""
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
    """The layers that a cache record names; of an unreadable one, which is no record to its readers, none."""
    try:
        data = json.loads(path.read_text())
        found = data.get("layers", ()) if isinstance(data, dict) else ()
        single = data.get("layer") if isinstance(data, dict) else None
    except (OSError, ValueError):
        return ()
    return tuple(str(key) for key in [*found, *([single] if single else [])])
