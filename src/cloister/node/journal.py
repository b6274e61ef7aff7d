"""The supervisor's journal: one directory a sandbox, so that a restart finds what lives and sweeps what does not (I8).

::

    <data>/node/sandboxes/<id>/record.json   {"record": SandboxRecord, "runtime": state for Runtime.adopt, or null}
    <data>/node/sandboxes/<id>/disk.img      the writable layer; the runtime's

An entry is written before the first kernel object of its sandbox and removed after the last. Writes are atomic (rename). Format version 1.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.linux.files import write_whole
from cloister.model.sandbox import SandboxRecord

__all__ = ["Entry", "Journal"]

_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """What the journal holds of one sandbox; ``runtime_state`` is None until there is something to adopt."""

    record: SandboxRecord
    runtime_state: dict[str, Any] | None


class Journal:
    """The journal below ``directory``. Calls for one sandbox must not overlap."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def directory_of(self, sandbox_id: str) -> Path:
        """The sandbox's own directory."""
        return self._directory / sandbox_id

    def write(self, record: SandboxRecord, runtime_state: dict[str, Any] | None) -> None:
        """Create or replace the entry. Raises: OSError (the disk is full, for one)."""
        directory = self.directory_of(record.sandbox_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        write_whole(directory / "record.json", json.dumps({"version": _VERSION, "record": record.to_json(), "runtime": runtime_state}))

    def entries(self) -> tuple[list[Entry], list[str]]:
        """All readable entries, and the ids of directories without one (their creation had not begun)."""
        found, unreadable = [], []
        for directory in sorted(self._directory.iterdir()):
            try:
                data = json.loads((directory / "record.json").read_text())
                found.append(Entry(SandboxRecord.from_json(data["record"]), data["runtime"]))
            except (OSError, ValueError, KeyError, TypeError):
                unreadable.append(directory.name)
        return found, unreadable

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox; nothing happens when it is not there. The directory holds our own files only (I2)."""
        shutil.rmtree(self.directory_of(sandbox_id), ignore_errors=True)
