"""The supervisor's journal: one directory for each sandbox. By it a restart adopts what lives and sweeps what does not (I8).

::

    <data>/node/sandboxes/<id>/record.json   {"version", "digest", "record": SandboxRecord, "runtime": state for Runtime.adopt, or null}
    <data>/node/sandboxes/<id>/origin.json   what it was made of (node/origin.py)
    <data>/node/sandboxes/<id>/disk.img      the writable layer; the runtime's
    <run>/<n>/records/<id>.json              a copy of the record, in memory (tmpfs)
    <data>/node/damaged/<id>.json            a record that was set aside, the newest 20

An entry is written before the first kernel object of its sandbox and removed after the last. Writes are atomic (rename). The copy is
written first and removed first, so it is never older than the record. It is on another medium and lives as long as the kernel objects, so a
damaged record ends no sandbox. A loss of power ends the sandboxes too, so only the entries of those that are kept without processes are
synced.

Invariant: the state in an entry changes only as the table in ``model/sandbox.py`` allows.

Format version 3. Format 2 knows no pause. In format 1 a record has ``allow_internet`` instead of ``egress``, and untyped ``attributes``
instead of ``client``; its digest does not cover the version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.errors import UnusableStateError
from cloister.linux.files import make_directory, remove_partial, write_whole
from cloister.model.sandbox import SandboxRecord, SandboxState, check_transition

__all__ = ["Entry", "Found", "Journal", "journal_of"]

_VERSION = 3
_KEPT_DAMAGED = 20


@dataclass(frozen=True)
class Entry:
    """The entry of one sandbox. ``runtime_state`` is None until there is a process to adopt."""

    record: SandboxRecord
    runtime_state: dict[str, Any] | None
    is_copy: bool = False
    """The record itself is unreadable; this is its copy."""


@dataclass(frozen=True)
class Found:
    """The content of the journal."""

    entries: list[Entry] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    """Ids without a record: the supervisor died before it wrote the first."""
    damaged: list[str] = field(default_factory=list)
    """Ids whose record and copy are both unreadable."""


class Journal:
    """The journal below ``directory``; copies are in ``copies``. Call :meth:`open` before writing. Calls for a sandbox must not overlap."""

    def __init__(self, directory: Path, copies: Path) -> None:
        self._directory = directory
        self._copies = copies
        self._states: dict[str, SandboxState] = {}
        """The state in the entry that was last read or written, by sandbox id."""
        self._texts: dict[str, tuple[SandboxRecord, str]] = {}

    def open(self) -> None:
        """Make the directories, and remove partial files that a crash left."""
        for path in (self._directory, self._copies):
            make_directory(path)
        for path in (self._copies, *self._directory.iterdir()):
            remove_partial(path)

    def directory_of(self, sandbox_id: str) -> Path:
        """The sandbox's own directory."""
        return self._directory / sandbox_id

    def write(self, record: SandboxRecord, runtime_state: dict[str, Any] | None, *, is_durable: bool = False) -> None:
        """Create or replace the entry. ``is_durable``: also a loss of power leaves it.

        Raises: InvalidTransitionError; OSError, for example when the disk is full.
        """
        before = self._states.get(record.sandbox_id, record.state)
        if record.state is not before:
            check_transition(before, record.state)
        data, state = self._text_of(record), json.dumps(runtime_state)
        text = f'{{"version": {_VERSION}, "digest": "{_digest(_VERSION, data, state)}", "record": {data}, "runtime": {state}}}'
        write_whole(self._copy_of(record.sandbox_id), text)
        directory = self.directory_of(record.sandbox_id)
        if not directory.exists():
            make_directory(directory)
        write_whole(directory / "record.json", text, is_durable=is_durable)
        self._states[record.sandbox_id] = record.state

    def _text_of(self, record: SandboxRecord) -> str:
        """The record as JSON. Kept while it is written again with another state of the runtime: as often as not, it is the same."""
        known = self._texts.get(record.sandbox_id)
        if known is None or known[0] is not record:
            known = self._texts[record.sandbox_id] = (record, json.dumps(record.to_json()))
        return known[1]

    def entries(self) -> Found:
        """All entries; changes no file. Raises: UnusableStateError: an entry is of a newer release."""
        found = Found()
        copies = {path.stem for path in self._copies.glob("[!.]*.json")}
        for name in sorted(copies.union(path.name for path in self._directory.glob("*"))):
            paths = (self.directory_of(name) / "record.json", self._copy_of(name))
            entry = _read(paths[0]) or _read(paths[1], is_copy=True)
            if entry is not None:
                found.entries.append(entry)
                self._states[name] = entry.record.state
            else:
                (found.damaged if any(path.exists() for path in paths) else found.begun).append(name)
        return found

    def frozen(self) -> set[str]:
        """The sandboxes that are paused with their processes, or about to be. Raises: UnusableStateError."""
        records = [entry.record for entry in self.entries().entries]
        paused = [record for record in records if record.state in (SandboxState.PAUSING, SandboxState.PAUSED)]
        return {record.sandbox_id for record in paused if record.pause is not None and record.pause.kind.keeps_memory}

    def set_aside(self, sandbox_id: str) -> None:
        """Forget a sandbox, but keep its damaged record for the operator, if the disk has room for it."""
        aside = self._directory.parent / "damaged"
        with contextlib.suppress(OSError):
            make_directory(aside)
            (self.directory_of(sandbox_id) / "record.json").rename(aside / f"{sandbox_id}.json")
            for old in sorted(aside.iterdir(), key=lambda path: -path.stat().st_mtime)[_KEPT_DAMAGED:]:
                old.unlink()
        self.remove(sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox. Idempotent. The directory holds our own files only (I2)."""
        self._copy_of(sandbox_id).unlink(missing_ok=True)
        shutil.rmtree(self.directory_of(sandbox_id), ignore_errors=True)
        self._states.pop(sandbox_id, None)
        self._texts.pop(sandbox_id, None)

    def _copy_of(self, sandbox_id: str) -> Path:
        return self._copies / f"{sandbox_id}.json"


def journal_of(data_dir: Path, run_dir: Path) -> Journal:
    """That of the server with this data directory; ``run_dir`` is its instance's."""
    return Journal(data_dir / "node" / "sandboxes", run_dir / "records")


def _read(path: Path, *, is_copy: bool = False) -> Entry | None:
    """None: there is none, or it is damaged. Raises: UnusableStateError."""
    try:
        data = json.loads(path.read_text())
        version, digest = data["version"], data.get("digest")
        parts = json.dumps(data.get("record")), json.dumps(data.get("runtime"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # If the digest is right for this release's version, only the version is damaged.
    if isinstance(version, int) and version > _VERSION and digest != _digest(_VERSION, *parts):
        raise UnusableStateError(f"{path} has format {version}, this release knows {_VERSION}", hint="run the newer release that wrote it")
    try:
        if digest != _digest(version, *parts) and not (digest is None and version == 1):  # early releases wrote none
            return None
        return Entry(SandboxRecord.from_json(data["record"]), data["runtime"], is_copy)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(version: int, record: str, runtime_state: str) -> str:
    """The digest of an entry, its parts as JSON text. Python's JSON module writes again exactly the text that it has read."""
    text = f"[{record}, {runtime_state}]" if version == 1 else f"[{version}, {record}, {runtime_state}]"
    return hashlib.sha256(text.encode()).hexdigest()
