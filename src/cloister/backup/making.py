"""Makes a backup of a server, also while it runs.

The database is copied first, as one transaction sees it. Layers never change, and are held while they are read. A template whose record or
layers cannot be read, or not restored, is left out and named, so that no client can keep an operator from a backup.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from cloister import __version__
from cloister.backup.contents import CONFIG, DATA_FILES, DATABASE, HEADER, KEY_FILES, Header
from cloister.backup.stream import Entry, StreamWriter, check_entry
from cloister.backup.trees import read_entry, walk_tree
from cloister.errors import CloisterError, ConflictError, NotFoundError, StoreError
from cloister.linux.files import sync_path
from cloister.linux.identity import use_rights_of_owner
from cloister.model.template import Template
from cloister.store.copies import copy_database, ready_builds
from cloister.template.layers import LayerStore

__all__ = ["BackupReport", "BackupSource", "make_backup"]

_CHUNK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems without hard links, such as exFAT."""


@dataclass(frozen=True, kw_only=True)
class BackupSource:
    """What to back up."""

    data_dir: Path
    store_dir: Path
    config: Path
    """The file of settings; it may not exist."""
    with_keys: bool = True
    with_layers: bool = True


@dataclass(kw_only=True)
class BackupReport:
    """What is in the backup."""

    file: str
    bytes: int = 0
    schema: int = 0
    with_keys: bool = False
    with_config: bool = False
    templates: int = 0
    layers: int = 0
    layer_bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Build ids of clients' templates and snapshots that are not in it, with the reason."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """The templates to write; ``keys`` are those of their layers, each after its parent."""

    templates: tuple[Template, ...]
    keys: tuple[str, ...]


def make_backup(source: BackupSource, target: Path, progress: Callable[[int, int], None]) -> BackupReport:
    """Write the new file ``target`` (mode 0600). ``progress`` is called with the bytes that are written, and that will be, roughly.

    Raises: ConflictError: there is such a file; NotFoundError: there is no database; UnusableStateError, OSError. Nothing is left then.
    """
    if not (source.data_dir / DATABASE).is_file():
        raise NotFoundError(f"there is no {source.data_dir / DATABASE}", hint="has `cloister serve` been started on this data directory?")
    report = BackupReport(file=str(target), with_keys=source.with_keys)
    with ExitStack() as stack:
        file = stack.enter_context(_new_file(target))
        copy = Path(stack.enter_context(TemporaryDirectory(dir=target.parent, prefix=".cloister-backup-"))) / "cloister.db"
        report.schema = copy_database(source.data_dir / DATABASE, copy, use_rights_of_owner)
        store = LayerStore(source.store_dir, create=False)
        plan = _plan(source, store, ready_builds(copy), report, stack)
        report.layer_bytes = sum(store.layer(key).size_bytes for key in plan.keys)
        header = Header(
            release=__version__,
            schema=report.schema,
            made_at=time.time(),
            has_keys=source.with_keys,
            has_layers=source.with_layers,
            layer_bytes=report.layer_bytes,
        )
        writer = StreamWriter(file)
        _add_text(writer, HEADER, json.dumps(header.to_json()))
        _add_files(writer, source, copy)
        report.with_config = _add_file(writer, CONFIG, source.config)
        for template in plan.templates:
            _add_text(writer, f"builds/{template.build_id}.json", json.dumps(template.to_json()))
        total = report.layer_bytes + writer.written
        for key in plan.keys:
            _add_layer(writer, store, key, lambda: progress(writer.written, total))
        writer.finish()
        report.bytes, report.templates, report.layers = writer.written, len(plan.templates), len(plan.keys)
    return report


@contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is whole and on disk."""
    if target.exists():
        raise ConflictError(f"there is a file {target}", hint="give another name, or a directory: then the name has the time")
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file)
        _give_name(partial, target)
        sync_path(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _give_name(partial: Path, target: Path) -> None:
    """Raises: OSError, such as FileExistsError."""
    try:
        os.link(partial, target)  # unlike a rename, it replaces nothing
    except OSError as error:
        if error.errno not in _NO_LINKS or target.exists():
            raise
        partial.rename(target)


def _plan(source: BackupSource, store: LayerStore, build_ids: list[str], report: BackupReport, stack: ExitStack) -> _Plan:
    """Hold the layers of all templates that can be read, until the end of ``stack``."""
    templates: list[Template] = []
    keys: dict[str, None] = {}
    for build_id in build_ids:
        try:
            template = store.build(build_id)
            if template.has_memory:
                raise StoreError("it has the memory of a sandbox, which only this host can restore")
            if source.with_layers:
                new = [key for key in template.layers if key not in keys]
                stack.enter_context(store.hold(new))
                for key in new:
                    _measure(store, key)
        except (CloisterError, OSError) as error:
            report.left_out[build_id] = str(error)
            continue
        templates.append(template)
        keys |= dict.fromkeys(template.layers if source.with_layers else ())
    return _Plan(tuple(templates), tuple(keys))


def _measure(store: LayerStore, key: str) -> None:
    """Read the layer's record and all names, so that one that cannot be read or restored is known before the backup has a part of it.

    Raises: StoreError, OSError.
    """
    store.layer(key)
    for entry in walk_tree(store.rootfs(key), f"layers/{key}/rootfs"):
        check_entry(entry)


def _add_files(writer: StreamWriter, source: BackupSource, database: Path) -> None:
    for name in DATA_FILES:
        if name not in KEY_FILES or source.with_keys:
            _add_file(writer, f"data/{name}", database if name == DATABASE else source.data_dir / name)


def _add_file(writer: StreamWriter, name: str, path: Path) -> bool:
    """False: there is none. Raises: StoreError, OSError."""
    try:  # the api process owns some of the directories, and may have put a link or a pipe there
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is no file")
        entry = Entry(path=name, size=status.st_size, mtime_ns=status.st_mtime_ns)
        writer.add(entry, (file.read(min(_CHUNK, status.st_size - at)) for at in range(0, status.st_size, _CHUNK)))
    return True


def _add_text(writer: StreamWriter, name: str, text: str) -> None:
    data = text.encode()
    writer.add(Entry(path=name, size=len(data), mtime_ns=time.time_ns()), [data])


def _add_layer(writer: StreamWriter, store: LayerStore, key: str, progress: Callable[[], None]) -> None:
    _add_text(writer, f"layers/{key}/layer.json", json.dumps(asdict(store.layer(key))))
    root, prefix = store.rootfs(key), f"layers/{key}/rootfs"
    for entry in walk_tree(root, prefix):
        writer.add(entry, read_entry(root, prefix, entry))
        progress()
