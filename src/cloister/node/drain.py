"""The drain of this node: while it lasts, no sandbox is created, and perhaps none resumed. Sandboxes that there are go on.

Owns ``<data>/node/drain.json``, so that the drain survives a crash of any process. A clean stop ends it. A file that cannot be read counts
as a drain: it is safer to refuse than to fill a node that an operator empties.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import structlog

from cloister.errors import UnavailableError
from cloister.linux.files import write_whole
from cloister.model.drain import DrainState
from cloister.node.stop_plan import OnStop

__all__ = ["Drain", "drain_file"]

_log = structlog.get_logger("cloister.node")
_REMEDY = "try again later, or on another server; the operator ends this by `cloister drain --undo`"


def drain_file(data_dir: Path) -> Path:
    """The file that is there while the node of the data directory is drained."""
    return data_dir / "node" / "drain.json"


class Drain:
    """The drain in the file at ``path``. Blocks for the time of one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = _read(path)

    def begin(self, *, reason: str, refuse_resumes: bool) -> None:
        """Take no new sandbox from now on. Raises: OSError; the drain holds all the same until the process ends."""
        since = time.time() if self.state is None else self.state.since
        was, self.state = self.state, DrainState(since=since, reason=reason, refuses_resumes=refuse_resumes)
        if self.state == was and self._path.exists():  # a command that waits asks often
            return
        _log.info("node.draining", reason=reason, refuses_resumes=refuse_resumes)
        write_whole(self._path, json.dumps(asdict(self.state)), is_durable=True)

    def end(self) -> None:
        """Take sandboxes again."""
        self._path.unlink(missing_ok=True)
        if self.state is not None:
            _log.info("node.drain_ended")
        self.state = None

    @property
    def empties(self) -> bool:
        """Whether sandboxes are to be paused: not after the drain was undone, or begun anew without that."""
        return self.state is not None and self.state.refuses_resumes

    def check_creation(self) -> None:
        """Raises: UnavailableError: the node is drained."""
        if self.state is not None:
            raise UnavailableError(_told("takes no new sandboxes", self.state), hint=_REMEDY)

    def check_resume(self) -> None:
        """Raises: UnavailableError: the node is drained, and paused its sandboxes for that."""
        if self.state is not None and self.state.refuses_resumes:
            raise UnavailableError(_told("has paused its sandboxes and resumes none", self.state), hint=_REMEDY)

    def action_of_stop(self, setting: OnStop) -> OnStop:
        """The action of a stop: one after a drain ends no sandbox."""
        return OnStop.PAUSE if self.state is not None and setting is OnStop.KILL else setting


def _told(does: str, state: DrainState) -> str:
    return f"the server is being drained: it {does}{f' ({state.reason})' if state.reason else ''}"


def _read(path: Path) -> DrainState | None:
    try:
        return DrainState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.warning("node.drain_unreadable", error=str(error))
        return DrainState(since=time.time(), reason=f"{path} cannot be read")
