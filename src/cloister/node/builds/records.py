"""The records of builds on disk, by which a build survives the death of the supervisor.

::

    <data>/node/builds/<build_id>/request.json   the request with its credentials: mode 0600, removed when the build has ended
    <data>/node/builds/<build_id>/state.json     a BuildRecord
    <data>/node/builds/<build_id>/log.jsonl      node/builds/log.py

Writes are atomic (rename). The request is written first, so a directory with neither file holds no build. Format version 1.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from cloister.errors import UnusableStateError
from cloister.linux.files import make_directory, remove_partial, write_whole
from cloister.model.build import BuildRequest, BuildStatus

__all__ = ["BuildRecord", "BuildRecords"]

_log = structlog.get_logger("cloister.node.builds")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """The state of one build. Times are epoch seconds; 0: not yet."""

    status: BuildStatus
    team_id: str
    queued_at: float
    ended_at: float = 0.0
    message: str = ""
    step: str | None = None
    attempts: int = 0
    """How often the build started and neither ended nor was put back by a clean stop."""
    is_cancelled: bool = False
    """A client cancelled it; its thread may not have noticed yet."""
    is_dropped: bool = False
    """The control plane dropped it: it is to be forgotten when its thread has ended."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildRecord:
        """The inverse of :meth:`to_json`. Raises: KeyError, TypeError, ValueError."""
        fields = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**fields, "status": BuildStatus(fields["status"])})


class BuildRecords:
    """All records, below ``directory``. Calls for one build must not overlap."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory)

    def log_path(self, build_id: str) -> Path:
        """The path of the build's log."""
        return self._directory / build_id / "log.jsonl"

    def begin(self, request: BuildRequest, state: BuildRecord) -> None:
        """Record a new build. Raises: OSError; then no record is left."""
        try:
            make_directory(self._directory / request.build_id)
            self._write(request.build_id, "request.json", request.to_json())
            self.write(request.build_id, state)
        except OSError:
            self.remove(request.build_id)
            raise

    def write(self, build_id: str, state: BuildRecord) -> None:
        """Replace the record. Raises: OSError."""
        self._write(build_id, "state.json", state.to_json())

    def request(self, build_id: str) -> BuildRequest:
        """The client's request. Raises: OSError, KeyError, TypeError, ValueError."""
        return BuildRequest.from_json(json.loads((self._directory / build_id / "request.json").read_text()))

    def forget_request(self, build_id: str) -> None:
        """Remove the request and the credentials in it."""
        for path in (self._directory / build_id).glob("*request.json*"):  # a half-written one, too
            path.unlink()

    def load(self) -> dict[str, BuildRecord]:
        """All builds, oldest first. Removes directories that hold no build or an unreadable one.

        Raises: UnusableStateError: a newer release wrote one.
        """
        found: dict[str, BuildRecord] = {}
        for directory in self._directory.iterdir():
            remove_partial(directory)
            try:
                found[directory.name] = self._read(directory)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("build.unreadable", build_id=directory.name, error=repr(error))
                self.remove(directory.name)
        return dict(sorted(found.items(), key=lambda item: item[1].queued_at))

    def remove(self, build_id: str) -> None:
        """Remove the records of a build; an unknown id is no error. The directory holds our own files only (I2)."""
        shutil.rmtree(self._directory / build_id, ignore_errors=True)

    def _read(self, directory: Path) -> BuildRecord:
        try:
            data = json.loads((directory / "state.json").read_text())
            if data["version"] > _VERSION:
                raise UnusableStateError(
                    f"{directory}/state.json has format {data['version']}, this release knows {_VERSION}",
                    hint="run the newer release that wrote it",
                )
            return BuildRecord.from_json(data)
        except FileNotFoundError:  # the supervisor died between the two writes
            request = self.request(directory.name)
            return BuildRecord(status=BuildStatus.WAITING, team_id=request.team_id, queued_at=directory.stat().st_mtime)

    def _write(self, build_id: str, name: str, data: dict[str, Any]) -> None:
        write_whole(self._directory / build_id / name, json.dumps(data))
