"""What finished steps left: ``<store>/steps/<key>.json``, the cache of builds. Written whole or not at all; an unreadable one is absent.

The key says what a step was made of (:func:`step_keys`), the record what came out. A record is a claim: its layers count only while the
store has them, which the reader checks by holding them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloister.linux.files import write_whole
from cloister.model.build import BuildRequest, BuildStep
from cloister.template.layers import layer_key

__all__ = ["StepRecord", "StepRecords", "StepState", "step_keys"]

_KEY = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class StepState:
    """What a step hands to the next beside files."""

    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = ""
    """Empty: the home of the user, whoever that is."""
    home: str = ""
    """Of the user; empty: not known, since nobody has asked yet."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A finished step: all layers above the base, lowest first, and the state."""

    layers: tuple[str, ...]
    state: StepState


def step_keys(request: BuildRequest, base_layers: tuple[str, ...], state: StepState) -> tuple[str, ...]:
    """The key of each step of ``request`` on a base of these layers and that state.

    A team's steps are its own: how a command ends depends on limits that are in no key, so one team could leave another a broken layer.
    What is forced has the build's id in its key: nobody has made it before, but a build that goes on after a crash finds its own.
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
    """The records of the store at ``root``."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "steps"
        self._directory.mkdir(mode=0o700, exist_ok=True)

    def write(self, key: str, record: StepRecord) -> None:
        """Remember what came of the step."""
        write_whole(self._directory / f"{key}.json", json.dumps(asdict(record)))

    def read(self, key: str) -> StepRecord | None:
        """What came of the step; None: it is not known."""
        try:
            data = json.loads((self._directory / f"{key}.json").read_text())
            record = StepRecord(layers=tuple(data["layers"]), state=StepState(**data["state"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if all(isinstance(layer, str) and _KEY.match(layer) for layer in record.layers) else None
