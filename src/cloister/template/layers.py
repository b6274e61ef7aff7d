"""The layer store: trees and template records on disk, shared by every server and build of the host.

Owns ``<store>/layers``, ``<store>/templates``, ``<store>/logs`` and ``<store>/tmp``. A layer is named by what it was made from
(:func:`layer_key`), never by what came out, and appears by one rename: whoever sees ``layers/<key>`` sees all of it. Nothing ever
changes a published layer. It must not look inside a layer: its files were written by template code (invariant I2); the one walk over
such a tree is the removal of an abandoned one, by descriptors and without following links.

::

    layers/<key>/rootfs/      the tree, owners are sandbox ids written raw
    layers/<key>/layer.json   name, parent, size, times
    templates/<name>.json     a Template: the stock ones
    builds/<build id>.json    a Template: what a client's build, or a snapshot, made
    builders/<n>/             data directory of a build's own node
    tmp/<key>.<random>/       a build at work; ``lock`` in it is held by its process, so that a dead one's can be told and swept
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
from pathlib import Path
from typing import Any, TextIO

from cloister.errors import NoCapacityError, StoreError, TemplateNotFoundError
from cloister.linux.files import write_whole
from cloister.linux.holds import Holds
from cloister.linux.syscall import sync_filesystem
from cloister.linux.trees import remove_tree, tree_size
from cloister.model.template import Template

__all__ = ["FORMAT_VERSION", "Layer", "LayerStore", "Workspace", "layer_key"]

FORMAT_VERSION = 1
"""Part of every layer key: raised when the way layers are made changes, so that old ones are not taken for new."""

_BUILDERS = 4
_BUILD_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_POLL_S = 0.1


def layer_key(parent: str | None, definition: Mapping[str, Any]) -> str:
    """The key of the layer that ``definition`` (JSON-ready) makes on top of ``parent``: 64 hex digits."""
    document = {"format": FORMAT_VERSION, "parent": parent, "definition": definition}
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A published layer. ``build_s`` is how long it took, ``created_at`` seconds since the epoch."""

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

    def __init__(self, root: Path) -> None:
        self.root = root
        self._holds = Holds()
        for name in ("", "layers", "templates", "builds", "steps", "logs", "tmp", "locks", "agent"):
            (root / name).mkdir(parents=True, mode=0o700, exist_ok=True)

    def rootfs(self, key: str) -> Path:
        """Where the tree of layer ``key`` is or would be."""
        return self.root / "layers" / key / "rootfs"

    def key_of(self, tree: Path) -> str | None:
        """The key of the layer whose tree this is; None when it is no layer's."""
        key = tree.parent.name
        return key if tree == self.rootfs(key) else None

    def has(self, key: str) -> bool:
        """Whether the layer is published."""
        return self.rootfs(key).is_dir()

    def layer(self, key: str) -> Layer:
        """What is recorded of a published layer."""
        try:
            return Layer(**json.loads((self.root / "layers" / key / "layer.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"layer {key[:12]} of {self.root} cannot be read: {error}") from error

    def lowest(self, keys: Sequence[str]) -> str:
        """The name of the lowest of a template's layers; "" when it has none."""
        return self.layer(keys[0]).name if keys else ""

    @contextlib.contextmanager
    def lock(self, name: str, on_wait: Callable[[], None] | None = None, check: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the store-wide lock ``name``; ``on_wait`` is called once when another process has it, ``check`` while it has: what that
        raises ends the wait.
        """
        with (self.root / "locks" / name).open("w") as file:
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
        """Keep the layers ``keys`` from being removed, for the time of the block; counts as a use of them.

        Raises:
            StoreError: one of them is not there.
        """
        trees = [self.rootfs(key) for key in dict.fromkeys(keys)]
        try:
            self._holds.take(trees)
        except FileNotFoundError as error:
            raise StoreError(f"a layer is gone from {self.root}: {error}") from error
        try:
            for tree in trees:
                os.utime(tree.parent)
            yield
        finally:
            self._holds.give(trees)

    def keep(self, trees: Iterable[Path]) -> None:
        """Keep directories of the store from being removed for as long as this process lives; counts as a use of them.

        Raises:
            OSError: one of them is not there.
        """
        kept = tuple(trees)
        self._holds.take(kept)
        for tree in kept:
            os.utime(tree if self.key_of(tree) is None else tree.parent)

    @contextlib.contextmanager
    def workspace(self, key: str) -> Iterator[Workspace]:
        """A fresh workspace, removed at the end with whatever was not published."""
        root = self.root / "tmp" / f"{key[:16]}.{secrets.token_hex(4)}"
        try:  # from before the first directory on: a signal may end the build at any line
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
    def builder_directory(self) -> Iterator[Path]:
        """The data directory of a build's own node, for this build alone. One that died left things of the kernel under the same
        directory's name, so that the next finds them and removes them.

        Raises:
            NoCapacityError: too many builds run.
        """
        for number in range(_BUILDERS):
            path = self.root / "builders" / str(number)
            path.mkdir(parents=True, exist_ok=True)
            with (path / "lock").open("w") as file:
                if _try_lock(file):
                    yield path
                    return
        raise NoCapacityError(f"{_BUILDERS} template builds run on this store already")

    def publish(
        self, workspace: Workspace, key: str, name: str, parent: str | None, build_s: float, *, size_bytes: int | None = None
    ) -> Layer:
        """Make ``workspace.upper`` the layer ``key``, on disk before it is visible. The first of two wins.

        ``size_bytes`` spares the walk that measures it.
        """
        size = tree_size(workspace.upper) if size_bytes is None else size_bytes
        layer = Layer(key=key, name=name, parent=parent, size_bytes=size, created_at=time.time(), build_s=round(build_s, 1))
        (workspace.upper.parent / "layer.json").write_text(json.dumps(asdict(layer), indent=1))
        sync_filesystem(self.root)
        try:
            workspace.upper.parent.rename(self.root / "layers" / key)
        except OSError as error:
            if not self.has(key):
                raise StoreError(f"layer {key[:12]} cannot be published in {self.root}: {error}") from error
        return self.layer(key)

    def sweep(self) -> int:
        """Remove the workspaces of builds that died; returns how many."""
        swept = 0
        for root in (self.root / "tmp").iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), (root / "lock").open("a") as file:
                if _try_lock(file):
                    remove_tree(root)
                    swept += 1
        return swept

    def write_template(self, template: Template) -> None:
        """Record ``template`` under its name, in place of an older one."""
        _write_record(self.root / "templates" / f"{template.name}.json", template)

    def template(self, name: str) -> Template:
        """The built template of that name.

        Raises:
            TemplateNotFoundError: it was not built, or a layer of it is gone.
        """
        template = _read_record(self.root / "templates" / f"{name}.json")
        if template is None:
            raise TemplateNotFoundError(f"template '{name}' is not built", hint=f"run: cloister template build {name}")
        if missing := self._missing(template):
            lacks = f"template '{name}' lacks its layers {', '.join(missing)}"
            raise TemplateNotFoundError(lacks, hint=f"run: cloister template build {name}")
        return template

    def _missing(self, template: Template) -> list[str]:
        return [key[:12] for key in template.layers if not self.has(key)]

    def templates(self) -> list[Template]:
        """All whole templates, by name."""
        found = []
        for path in sorted((self.root / "templates").glob("*.json")):
            with contextlib.suppress(TemplateNotFoundError):
                found.append(self.template(path.stem))
        return found

    def records(self) -> list[Template]:
        """Every stock template as it is recorded; a layer of it may be gone.

        Raises:
            StoreError: a record cannot be read.
        """
        found = [_read_record(path) for path in sorted((self.root / "templates").glob("*.json"))]
        return [template for template in found if template is not None]

    def write_build(self, template: Template) -> None:
        """Record what the build ``template.build_id`` made: from then on its layers are in use."""
        _write_record(self._build_path(template.build_id), template)

    def build(self, build_id: str) -> Template:
        """What the build of that id made.

        Raises:
            TemplateNotFoundError: there is none, or a layer of it is gone.
            StoreError: its record cannot be read.
        """
        template = _read_record(self._build_path(build_id)) if _BUILD_ID.match(build_id) else None
        if template is None:
            raise TemplateNotFoundError(f"build '{build_id}' is not in {self.root}")
        if missing := self._missing(template):
            raise TemplateNotFoundError(f"build '{build_id}' lacks its layers {', '.join(missing)}", hint="build the template again")
        return template

    def drop_build(self, build_id: str) -> None:
        """Forget what a build made; nothing happens when there is nothing. Its layers go when nothing uses them."""
        if _BUILD_ID.match(build_id):
            self._build_path(build_id).unlink(missing_ok=True)

    def builds(self) -> list[Template]:
        """What every build made, as it is recorded; a layer of it may be gone.

        Raises:
            StoreError: a record cannot be read.
        """
        found = [_read_record(path) for path in sorted((self.root / "builds").glob("*.json"))]
        return [template for template in found if template is not None]

    def _build_path(self, build_id: str) -> Path:
        return self.root / "builds" / f"{build_id}.json"


def _write_record(path: Path, template: Template) -> None:
    write_whole(path, json.dumps(template.to_json(), indent=1) + "\n")


def _read_record(path: Path) -> Template | None:
    """None: there is no such record. Raises: StoreError."""
    try:
        return Template.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"the record {path} is damaged: {error}") from error


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
