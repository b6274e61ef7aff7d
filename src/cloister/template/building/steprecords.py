"""Records of finished steps: ``<store>/steps/<key>.json``, the cache of builds. Written atomically; an unreadable record counts as absent.

The key names a step's inputs (:func:`step_keys`), the record its outcome. A record counts only while the store has its layers, which the
reader checks by holding them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloister.linux.files import make_directory, write_whole
from cloister.model.build import BuildRequest, BuildStep
from cloister.template.layers import layer_key

__all__ = ["StepRecord", "StepRecords", "StepState", "step_keys"]

_KEY = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class StepState:
    """The state that a step passes to the next one, apart from files."""

    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = ""
    """Empty: the home of the user."""
    home: str = ""
    """The user's home. Empty: not known yet."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A finished step: all layers above the base, lowest first, and the state."""

    layers: tuple[str, ...]
    state: StepState


def step_keys(request: BuildRequest, base_layers: tuple[str, ...], state: StepState) -> tuple[str, ...]:
    """The key of each step of ``request`` on a base of these layers and that state.

    Teams share no steps: the outcome of a command depends on limits that no key contains, so one team could leave another a broken layer.
    The key of a forced step contains the build's id. So no other build's record matches, but a build that resumes finds its own.
    """
    again = {"again": request.build_id}
    key = layer_key(
        None,
        {"kind": "base", "team": request.team_id, "layers": list(base_layers), "state": asdict(state)} | (again if request.force else {}),
    )
    keys = []
    for step in request.steps:
        key = layer_key(key, _document(step) | (again if step.force else {}))
        keys.append(key)
    return tuple(keys)


def _document(step: BuildStep) -> dict[str, Any]:
    return {"kind": step.kind, "args": list(step.args), "files": step.files.digest if step.files else None}


class StepRecords:
    """All records, in the store at ``root``."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "steps"
        make_directory(self._directory)

    def write(self, key: str, record: StepRecord) -> None:
        """Record the outcome of the step."""
        write_whole(self._directory / f"{key}.json", json.dumps(asdict(record)))

    def read(self, key: str) -> StepRecord | None:
        """The outcome of the step. None: no record."""
        try:
            data = json.loads((self._directory / f"{key}.json").read_text())
            record = StepRecord(layers=tuple(data["layers"]), state=StepState(**data["state"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if all(isinstance(layer, str) and _KEY.match(layer) for layer in record.layers) else None
