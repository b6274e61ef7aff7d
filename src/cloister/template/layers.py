"""The layer store: trees and template records on disk, shared by every server and build of the host.

Owns ``<store>/layers``, ``<store>/templates``, ``<store>/logs`` and ``<store>/tmp``. The key of a layer names its inputs
(:func:`layer_key`), never its contents. A layer appears by one rename, so a reader of ``layers/<key>`` sees all of it, and a published
layer never changes. This module must not look inside a layer, because template code wrote its files (invariant I2). It walks such a tree
only to remove an abandoned one, by descriptors and without following links.

::

    layers/<key>/rootfs/      the tree, owners are sandbox ids written raw
    layers/<key>/layer.json   name, parent, size, times
    templates/<name>.json     a Template: the stock ones
    builds/<build id>.json    a Template: the result of a client's build or of a snapshot
    builders/<n>/             data directory of a build's own node; ``wanted`` names the templates that it builds
    tmp/<key>.<random>/       a running build, which holds the file ``lock`` in it; without a holder it is swept
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from cloister.errors import NoCapacityError, StoreError, TemplateNotFoundError
from cloister.linux.files import make_directory, open_private, write_whole
from cloister.linux.syscall import sync_filesystem
from cloister.linux.treelocks import TreeLocks
from cloister.linux.trees import remove_tree, tree_size
from cloister.model.template import Template
from cloister.template.templaterecords import TemplateRecords, write_template_record

__all__ = ["CAPTURE", "FORMAT_VERSION", "Layer", "LayerStore", "Workspace", "layer_key"]

FORMAT_VERSION = 1
"""Part of every layer key. A change in how layers are made raises it, so that no build takes an old layer for a new one."""

CAPTURE = "/snapshot"
"""The end of the name of a layer that is what a sandbox wrote until a snapshot or a fork. Its key never comes again."""
_BUILDERS = 4
_BUILD_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_POLL_S = 0.1
_KEPT_PATHS = 4096


def layer_key(parent: str | None, definition: Mapping[str, Any]) -> str:
    """The key of the layer that ``definition`` (JSON-ready) makes on top of ``parent``: 64 hex digits."""
    document = {"format": FORMAT_VERSION, "parent": parent, "definition": definition}
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A published layer. ``build_s`` is the build's duration, ``created_at`` seconds since the epoch."""

    key: str
    name: str
    parent: str | None
    size_bytes: int
    created_at: float
    build_s: float


@dataclass(frozen=True)
class Workspace:
    """Directories of a layer being built, empty at first: overlay ``upper`` (the layer to be) and ``work``."""

    root: Path

    @property
    def upper(self) -> Path:
        """Becomes the layer's ``rootfs``."""
        return self.root / "layer" / "rootfs"

    @property
    def work(self) -> Path:
        """Overlay work directory, on the same file system."""
        return self.root / "work"

    @property
    def empty(self) -> Path:
        """An empty directory: the lower layer of a step that starts from its own upper."""
        return self.root / "empty"


class LayerStore:
    """The store at ``root``. Every method is safe against other processes on the same store."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        """``create``: make the store's missing directories. Readers do not."""
        self.root = root
        self._tree_locks = TreeLocks()
        self._records = TemplateRecords()
        for name in ("", "layers", "templates", "builds", "steps", "logs", "tmp", "locks", "agent", "builders") if create else ():
            make_directory((root / name).resolve())  # an operator may have linked a part to elsewhere

    def rootfs(self, key: str) -> Path:
        """The path of the tree of layer ``key``, whether the layer exists or not."""
        return _rootfs(self.root, key)

    def key_of(self, tree: Path) -> str | None:
        """The key of the layer that has this tree; None: no layer has it."""
        key = tree.parent.name
        return key if tree == self.rootfs(key) else None

    def has(self, key: str) -> bool:
        """Whether the layer is published."""
        return self.rootfs(key).is_dir()

    def layer(self, key: str) -> Layer:
        """The record of a published layer. Raises: StoreError."""
        try:
            return Layer(**json.loads((self.root / "layers" / key / "layer.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"layer {key[:12]} of {self.root} cannot be read: {error}") from error

    def lowest(self, keys: Sequence[str]) -> str:
        """The name of the lowest of a template's layers; "" when it has none."""
        return self.layer(keys[0]).name if keys else ""

    @contextlib.contextmanager
    def lock(self, name: str, on_wait: Callable[[], None] | None = None, check: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the store-wide lock ``name``. While another process holds it, calls ``on_wait`` once and ``check`` repeatedly; an error
        from ``check`` ends the wait.
        """
        with os.fdopen(open_private(self.root / "locks" / name), "w") as file:
            if not _try_lock(file):
                if on_wait is not None:
                    on_wait()
                if check is None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                else:
                    _poll_lock(file, check)
            yield

    @contextlib.contextmanager
    def hold(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep the layers ``keys`` from being removed while the context is open. Counts as a use of them.

        Raises:
            StoreError: one of them is not there.
        """
        trees = [self.rootfs(key) for key in dict.fromkeys(keys)]
        try:
            self._tree_locks.lock(trees)
        except FileNotFoundError as error:
            raise StoreError(f"a layer is gone from {self.root}: {error}") from error
        try:
            for tree in trees:
                os.utime(tree.parent)
            yield
        finally:
            self._tree_locks.unlock(trees)

    def keep(self, trees: Iterable[Path]) -> None:
        """Keep directories of the store from being removed as long as this process lives. Counts as a use of them.

        Raises:
            OSError: one of them is not there.
        """
        kept = tuple(trees)
        self._tree_locks.lock(kept)
        for tree in kept:
            os.utime(tree if self.key_of(tree) is None else tree.parent)

    @contextlib.contextmanager
    def workspace(self, key: str) -> Iterator[Workspace]:
        """A fresh workspace. The end of the context removes it, without the published layer."""
        root = self.root / "tmp" / f"{key[:16]}.{secrets.token_hex(4)}"
        try:  # covers the first directory too: a signal may end the build at any line
            root.mkdir(mode=0o700)
            with (root / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                made = Workspace(root)
                for path in (made.upper, made.work, made.empty):
                    path.mkdir(parents=True)
                    path.chmod(0o755)
                yield made
        finally:
            remove_tree(root)

    @contextlib.contextmanager
    def builder_directory(self, wanted: Iterable[str] = ()) -> Iterator[Path]:
        """The data directory of a build's own node, for this build alone. Names repeat, so that a build finds and removes the kernel
        objects that a dead build left. ``wanted``: the stock templates that it builds, for :meth:`wanted_by_builds`.

        Raises:
            NoCapacityError: too many builds run.
        """
        for number in range(_BUILDERS):
            path = self.root / "builders" / str(number)
            make_directory(path)
            with (path / "lock").open("w") as file:
                if _try_lock(file):
                    write_whole(path / "wanted", json.dumps(list(wanted)))
                    yield path
                    return
        raise NoCapacityError(f"{_BUILDERS} template builds run on this store already")

    def wanted_by_builds(self) -> set[str]:
        """The stock templates that builds with a node of their own make now."""
        found: set[str] = set()
        for path in (self.root / "builders").glob("*/wanted"):
            with contextlib.suppress(OSError, ValueError), (path.parent / "lock").open("r") as file:
                if not _try_lock(file):
                    found.update(str(name) for name in json.loads(path.read_text()))
        return found

    def publish(
        self, workspace: Workspace, key: str, name: str, parent: str | None, build_s: float, *, size_bytes: int | None = None
    ) -> Layer:
        """Make ``workspace.upper`` the layer ``key``. It is on disk before it is visible. Of two publishers the first wins.

        ``size_bytes`` spares the walk that measures it.
        """
        size = tree_size(workspace.upper) if size_bytes is None else size_bytes
        layer = Layer(key=key, name=name, parent=parent, size_bytes=size, created_at=time.time(), build_s=round(build_s, 1))
        write_whole(workspace.upper.parent / "layer.json", json.dumps(asdict(layer), indent=1))
        sync_filesystem(self.root)
        try:
            workspace.upper.parent.rename(self.root / "layers" / key)
        except OSError as error:
            if not self.has(key):
                raise StoreError(f"layer {key[:12]} cannot be published in {self.root}: {error}") from error
        return self.layer(key)

    def sweep(self) -> int:
        """Remove the workspaces of dead builds. Returns their number."""
        swept = 0
        for root in (self.root / "tmp").iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), (root / "lock").open("a") as file:
                if _try_lock(file):
                    remove_tree(root)
                    swept += 1
        return swept

    def write_template(self, template: Template) -> None:
        """Record ``template`` under its name, in place of an older one."""
        write_template_record(self.root / "templates" / f"{template.name}.json", template)

    def drop_template(self, name: str) -> None:
        """Remove the record of a stock template. The garbage collector removes its unused layers."""
        (self.root / "templates" / f"{name}.json").unlink(missing_ok=True)

    def template(self, name: str) -> Template:
        """The built template of that name.

        Raises:
            TemplateNotFoundError: it was not built, or a layer of it is gone.
        """
        template = self._records.stock(self.root / "templates" / f"{name}.json")
        if template is None:
            raise TemplateNotFoundError(f"template '{name}' is not built", hint=f"run: cloister template build {name}")
        if missing := self._missing(template):
            lacks = f"template '{name}' lacks its layers {', '.join(missing)}"
            raise TemplateNotFoundError(lacks, hint=f"run: cloister template build {name}")
        return template

    def _missing(self, template: Template) -> list[str]:
        return [key[:12] for key in template.layers if not self.has(key)]

    def templates(self) -> list[Template]:
        """All templates whose layers are there, by name."""
        found = []
        for path in sorted((self.root / "templates").glob("*.json")):
            with contextlib.suppress(TemplateNotFoundError):
                found.append(self.template(path.stem))
        return found

    def records(self) -> list[Template]:
        """The records of all stock templates. Their layers may be gone.

        Raises:
            StoreError: a record cannot be read.
        """
        directory = self.root / "templates"
        names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(".json")) if directory.is_dir() else []
        found = [self._records.stock(_record(directory, name)) for name in names]
        return [template for template in found if template is not None]

    def write_build(self, template: Template) -> None:
        """Record the result of the build ``template.build_id``. From then on its layers are in use."""
        write_template_record(self._build_path(template.build_id), template)

    def build(self, build_id: str) -> Template:
        """The result of the build.

        Raises:
            TemplateNotFoundError: there is none, or a layer of it is gone.
            StoreError: its record cannot be read.
        """
        template = self._records.read(self._build_path(build_id)) if _BUILD_ID.match(build_id) else None
        if template is None:
            raise TemplateNotFoundError(f"build '{build_id}' is not in {self.root}")
        if missing := self._missing(template):
            raise TemplateNotFoundError(f"build '{build_id}' lacks its layers {', '.join(missing)}", hint="build the template again")
        return template

    def has_build(self, build_id: str) -> bool:
        """Whether there is a record of the build, readable or not."""
        return bool(_BUILD_ID.match(build_id)) and self._build_path(build_id).exists()

    def drop_build(self, build_id: str) -> None:
        """Remove the record of a build; an unknown id is no error. The garbage collector removes its unused layers."""
        if _BUILD_ID.match(build_id):
            self._build_path(build_id).unlink(missing_ok=True)

    def builds(self) -> list[Template]:
        """The records of all builds. Their layers may be gone.

        Raises:
            StoreError: a record cannot be read.
        """
        found = [self._records.read(path) for path in sorted((self.root / "builds").glob("*.json"))]
        return [template for template in found if template is not None]

    def _build_path(self, build_id: str) -> Path:
        return self.root / "builds" / f"{build_id}.json"


@lru_cache(_KEPT_PATHS)
def _rootfs(root: Path, key: str) -> Path:
    """A creation looks at all layers of its template, and to join paths takes longer than to look at them."""
    return root / "layers" / key / "rootfs"


@lru_cache(_KEPT_PATHS)
def _record(directory: Path, name: str) -> Path:
    return directory / name


def _poll_lock(file: TextIO, check: Callable[[], None]) -> None:
    while not _try_lock(file):
        check()
        time.sleep(_POLL_S)


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
