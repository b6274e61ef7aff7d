"""What the supervisor keeps of each build on disk, so that a build outlives it.

::

    <data>/node/builds/<build_id>/request.json   the request, with credentials: mode 0600, removed when the build has ended
    <data>/node/builds/<build_id>/state.json     a BuildState
    <data>/node/builds/<build_id>/log.jsonl      node/build_log.py

Writes are atomic (rename). The request is written first: a directory without one and without a state is no build. Format version 1.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from cloister.linux.files import write_whole
from cloister.model.build import BuildRequest, BuildStatus

__all__ = ["BuildRecords", "BuildState"]

_log = structlog.get_logger("cloister.node.builds")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BuildState:
    """Where a build is. Times are epoch seconds; 0: not yet."""

    status: BuildStatus
    team_id: str
    queued_at: float
    ended_at: float = 0.0
    message: str = ""
    step: str | None = None
    attempts: int = 0
    """How often it was begun and neither ended nor was put back by a clean stop."""
    is_cancelled: bool = False
    """Somebody wants it to end; it may not have heard of it yet."""
    is_dropped: bool = False
    """And to be forgotten."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildState:
        """The inverse of :meth:`to_json`. Raises: KeyError, TypeError, ValueError."""
        fields = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**fields, "status": BuildStatus(fields["status"])})


class BuildRecords:
    """The records below ``directory``. Calls for one build must not overlap."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log_path(self, build_id: str) -> Path:
        """Where the build's log is."""
        return self._directory / build_id / "log.jsonl"

    def begin(self, request: BuildRequest, state: BuildState) -> None:
        """Record a new build. Raises: OSError, and then there is none."""
        try:
            (self._directory / request.build_id).mkdir(mode=0o700, exist_ok=True)
            self._write(request.build_id, "request.json", request.to_json())
            self.write(request.build_id, state)
        except OSError:
            self.remove(request.build_id)
            raise

    def write(self, build_id: str, state: BuildState) -> None:
        """Replace the state. Raises: OSError."""
        self._write(build_id, "state.json", state.to_json())

    def request(self, build_id: str) -> BuildRequest:
        """What was asked for. Raises: OSError, KeyError, TypeError, ValueError."""
        return BuildRequest.from_json(json.loads((self._directory / build_id / "request.json").read_text()))

    def forget_request(self, build_id: str) -> None:
        """Remove the request and the credentials in it."""
        for path in (self._directory / build_id).glob("*request.json*"):  # one half written, too
            path.unlink()

    def load(self) -> dict[str, BuildState]:
        """All builds, oldest first. What is no build, or cannot be read, is removed."""
        found: dict[str, BuildState] = {}
        for directory in self._directory.iterdir():
            try:
                found[directory.name] = self._read(directory)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("build.unreadable", build_id=directory.name, error=repr(error))
                self.remove(directory.name)
        return dict(sorted(found.items(), key=lambda item: item[1].queued_at))

    def remove(self, build_id: str) -> None:
        """Forget a build; nothing happens when it is not there. The directory holds our own files only (I2)."""
        shutil.rmtree(self._directory / build_id, ignore_errors=True)

    def _read(self, directory: Path) -> BuildState:
        try:
            return BuildState.from_json(json.loads((directory / "state.json").read_text()))
        except FileNotFoundError:  # the crash came between the two writes
            request = self.request(directory.name)
            return BuildState(status=BuildStatus.WAITING, team_id=request.team_id, queued_at=directory.stat().st_mtime)

    def _write(self, build_id: str, name: str, data: dict[str, Any]) -> None:
        write_whole(self._directory / build_id / name, json.dumps(data))
