"""Restores a server from a backup, or its database from a copy. The server must be stopped.

Everything is unpacked beside its place and verified first; then it is moved into place. Until then an error leaves nothing behind. A file
that is replaced moves to ``<data>/replaced/<time>``. Layers and records of templates that the store has already stay: they never change.
The settings of the backup take effect only when the operator puts them into place: they can name programs that run as root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cloister.backup.contents import CONFIG, DATA_FILES, DATABASE, HEADER, Header
from cloister.backup.stream import Entry, EntryKind, StreamReader
from cloister.backup.trees import TreeUnpacker
from cloister.errors import ConflictError, InvalidArchiveError, NoCapacityError, StoreError, UnusableStateError
from cloister.ids import is_build_id
from cloister.linux.files import make_directory, sync_path
from cloister.linux.syscall import sync_filesystem
from cloister.model.template import Template
from cloister.node.instance import is_served
from cloister.store.copies import MAGIC, copy_idle_database, database_schema
from cloister.store.migrate import newest_schema
from cloister.template.layers import Layer, LayerStore, Workspace

__all__ = ["RestoreReport", "RestoreTarget", "restore_backup", "restore_database"]

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_MAX_TEXT = 16 << 20
_MODES = {"ca/ca.crt": 0o644}
_REPLACE = "--replace moves the present files to {}/replaced"


@dataclass(frozen=True, kw_only=True)
class RestoreTarget:
    """Where to restore to."""

    data_dir: Path
    store_dir: Path
    run_dir: Path
    replace: bool = False
    """Whether a database that is there may be replaced."""


@dataclass(kw_only=True)
class RestoreReport:
    """What was restored."""

    schema: int
    release: str = ""
    made_at: float = 0.0
    files: list[str] = field(default_factory=list)
    """Paths below the data directory."""
    without_keys: bool = False
    config: str | None = None
    """Where the settings of the backup are now."""
    replaced: str | None = None
    """The directory with the former files."""
    templates: int = 0
    layers: int = 0
    layers_present: int = 0
    """Layers that the store had already."""
    layers_missing: list[str] = field(default_factory=list)
    """Layers that records name and the store lacks: the backup has references only."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass
class _Unpacked:
    """The unpacked backup, not in place yet."""

    header: Header
    directory: Path
    """Has ``data/<path>`` and ``config.toml``."""
    templates: list[Template] = field(default_factory=list)
    layers: list[tuple[Layer, Workspace]] = field(default_factory=list)
    present: int = 0


def restore_database(file: Path, target: RestoreTarget) -> RestoreReport:
    """Replace the database by a copy of ``file``. Raises: as :func:`restore_backup`."""
    with _exclusive(target) as staging:
        (staging / "data" / "api").mkdir(parents=True)
        schema = copy_idle_database(file, staging / "data" / DATABASE)
        _check_schema(schema)
        report = RestoreReport(schema=schema)
        _move_into_place(staging, target, report)
        return report


def restore_backup(file: BinaryIO, target: RestoreTarget, progress: Callable[[int], None]) -> RestoreReport:
    """Restore what ``file`` has. ``progress`` is called with the bytes that were read.

    Raises: ConflictError: a server runs, or there is a database and ``target.replace`` is False; InvalidArchiveError, UnusableStateError,
    NoCapacityError, OSError. Nothing is left or changed then.
    """
    with _exclusive(target) as staging, ExitStack() as stack:
        store = LayerStore(target.store_dir)
        unpacked = _unpack(StreamReader(file), staging, store, stack, lambda: progress(file.tell()))
        schema = database_schema(staging / "data" / DATABASE)
        _check_schema(schema)
        _check_stopped(target)  # a connection to cloister.socket may have started it meanwhile
        header = unpacked.header
        report = RestoreReport(schema=schema, release=header.release, made_at=header.made_at, without_keys=not header.has_keys)
        for layer, workspace in unpacked.layers:  # a template of a backup names its layers from below, and the writer kept that order
            store.publish(workspace, layer.key, layer.name, layer.parent, layer.build_s, size_bytes=layer.size_bytes)
        report.layers, report.layers_present = len(unpacked.layers), unpacked.present
        for template in unpacked.templates:
            if not store.has_build(template.build_id):
                store.write_build(template)
                report.templates += 1
        named = {key for template in unpacked.templates for key in template.layers}
        report.layers_missing = sorted(key for key in named if not store.has(key))
        sync_filesystem(target.store_dir)
        _move_into_place(staging, target, report)
        return report


@contextmanager
def _exclusive(target: RestoreTarget) -> Iterator[Path]:
    """A directory to unpack into, on the file system of the data directory; no server runs."""
    _check_stopped(target)
    if (target.data_dir / DATABASE).exists() and not target.replace:
        raise ConflictError(f"there is a database in {target.data_dir}", hint=_REPLACE.format(target.data_dir))
    make_directory(target.data_dir, 0o755, keep=True)
    staging = target.data_dir / f".restore.{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _check_stopped(target: RestoreTarget) -> None:
    if is_served(target.data_dir, target.run_dir):
        raise ConflictError("a server runs on this data directory", hint="stop it first: systemctl stop cloister.socket cloister.service")


def _unpack(reader: StreamReader, staging: Path, store: LayerStore, stack: ExitStack, progress: Callable[[], None]) -> _Unpacked:
    entries = reader.entries()
    first = next(entries)
    if first.path != HEADER:
        raise InvalidArchiveError("this is no backup of Cloister")
    header = Header.from_json(_json(reader, first))
    _check_schema(header.schema)
    unpacked = _Unpacked(header, staging)
    if shutil.disk_usage(store.root).free < header.layer_bytes:
        raise NoCapacityError(f"{store.root} has not the {header.layer_bytes >> 20} MiB that the layers need", hint="free disk space")
    tree: TreeUnpacker | None = None
    for entry in entries:
        progress()
        folder, _, name = entry.path.partition("/")
        if folder == "layers":
            tree = _take_layer(reader, entry, tree, unpacked, store, stack)
        elif entry.kind is not EntryKind.FILE or entry.pieces is not None:
            raise InvalidArchiveError(f"no backup has an entry {entry.path!r}")
        elif folder == "builds":
            unpacked.templates.append(_template(_json(reader, entry), name))
        elif (folder == "data" and name in DATA_FILES) or entry.path == CONFIG:
            path = staging / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODES.get(name, 0o600)), "wb") as file:
                file.writelines(reader.data())
                os.fsync(file)
        else:
            raise InvalidArchiveError(f"no backup has an entry {entry.path!r}")
    if tree is not None:
        tree.finish()
    if not (staging / "data" / DATABASE).is_file():
        raise InvalidArchiveError("the backup has no database")
    return unpacked


def _take_layer(
    reader: StreamReader, entry: Entry, tree: TreeUnpacker | None, unpacked: _Unpacked, store: LayerStore, stack: ExitStack
) -> TreeUnpacker | None:
    """Take an entry below ``layers``; returns the unpacker of its layer, None if the store has the layer."""
    _, key, *rest = entry.path.split("/", 2)
    if not _KEY.match(key) or not rest:
        raise InvalidArchiveError(f"no backup has an entry {entry.path!r}")
    if rest == ["layer.json"]:
        if tree is not None:
            tree.finish()
        layer = _layer(_json(reader, entry), key)
        with contextlib.suppress(StoreError):
            stack.enter_context(store.hold([key]))  # until its records are in place: a collector may run meanwhile
            unpacked.present += 1
            return None
        workspace = stack.enter_context(store.workspace(key))
        unpacked.layers.append((layer, workspace))
        return TreeUnpacker(workspace.upper, f"layers/{key}/rootfs")
    if tree is not None:
        tree.put(entry, reader.data())
    return tree


def _json(reader: StreamReader, entry: Entry) -> Any:
    if entry.size > _MAX_TEXT or entry.kind is not EntryKind.FILE:
        raise InvalidArchiveError(f"{entry.path!r} is too long")
    try:
        return json.loads(b"".join(reader.data()))
    except (ValueError, RecursionError) as error:
        raise InvalidArchiveError(f"{entry.path!r} cannot be read") from error


def _layer(data: Any, key: str) -> Layer:
    try:
        layer = Layer(**data)
        is_fine = layer.key == key and isinstance(layer.name, str) and (layer.parent is None or _KEY.match(layer.parent))
        if is_fine and isinstance(layer.size_bytes, int) and isinstance(layer.build_s, int | float):
            return layer
    except TypeError:
        pass
    raise InvalidArchiveError(f"the record of the layer {key[:12]} cannot be read")


def _template(data: Any, name: str) -> Template:
    try:
        template = Template.from_json(data)
        is_ours = is_build_id(template.build_id) and name == f"{template.build_id}.json" and not template.has_memory
        if is_ours and template.layers and all(isinstance(key, str) and _KEY.match(key) for key in template.layers):
            return template
    except (TypeError, ValueError, KeyError, AttributeError):
        pass
    raise InvalidArchiveError(f"the record of the template {name!r} cannot be read")


def _check_schema(schema: int) -> None:
    newest = newest_schema()
    if not 0 < schema <= newest:
        raise UnusableStateError(
            f"the schema of the database is {schema}, this release knows {newest}", hint="use the release that wrote it"
        )


def _move_into_place(staging: Path, target: RestoreTarget, report: RestoreReport) -> None:
    """Move the files of ``staging``; each former one moves aside first, the database with the files that belong to it."""
    _check_stopped(target)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = target.data_dir / "replaced" / f"{stamp}-{secrets.token_hex(2)}"
    names = [name for name in DATA_FILES if (staging / "data" / name).is_file()]
    with ExitStack() as undo:  # in reverse order: each file goes back where it was
        for name in names:
            for former in (name, *((f"{name}-wal", f"{name}-shm", f"{name}-journal") if name == DATABASE else ())):
                if os.path.lexists(target.data_dir / former):
                    make_directory(aside.parent)
                    (aside / former).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _move(target.data_dir / former, aside / former, undo)
                    report.replaced = str(aside)
            folder = (target.data_dir / name).parent
            if not folder.exists():
                make_directory(folder, 0o755 if folder.name == "ca" else 0o700)
                undo.callback(folder.rmdir)
                above = folder.parent.stat()
                os.chown(folder, above.st_uid, above.st_gid)  # below the directory of the api process
            owner = folder.stat()
            os.chown(staging / "data" / name, owner.st_uid, owner.st_gid)
            _move(staging / "data" / name, target.data_dir / name, undo)
            sync_path(folder)
        if (staging / CONFIG).is_file():
            place = target.data_dir / "restored-cloister.toml"
            (staging / CONFIG).rename(place)
            report.config = str(place)
        undo.pop_all()
    report.files = names


def _move(path: Path, to: Path, undo: ExitStack) -> None:
    path.rename(to)
    undo.callback(to.rename, path)


def is_database(file: Path) -> bool:
    """Whether the file is a database, such as a copy from before a migration. Raises: OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would let root wait for ever
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC
