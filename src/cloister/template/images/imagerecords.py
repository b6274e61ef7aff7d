"""Records of images, below ``<store>/images``, and the facts that a registry tells about an image.

::

    <store>/images/pulled/<sha256 of team and reference>.json   facts, scope and time of the last pull
    <store>/images/made/<key>.json                              the outcome of one step: a layer or none, and further results
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloister.errors import BuildError
from cloister.linux.files import write_whole

__all__ = ["ImageFacts", "ImageRecords", "ImageStepResult", "PulledImage", "read_facts"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[^=\0]{1,256}\Z", re.DOTALL)
_MAX_LAYERS, _MAX_TEXT, _MAX_ENVS, _MAX_WORDS = 100, 32_768, 512, 1000
_MAX_ALL_TEXTS = 1 << 20
"""Characters of variables and words together. The host holds the variables of each sandbox in memory."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The digest of an image's manifest, the digests of its unpacked layers, lowest first, and the used part of its configuration."""

    digest: str
    diff_ids: tuple[str, ...]
    envs: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    starts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PulledImage:
    """An image that a team pulled. ``scope`` is "" for an image that every team may pull, else the team."""

    facts: ImageFacts
    scope: str
    at: float


@dataclass(frozen=True, kw_only=True)
class ImageStepResult:
    """The outcome of one step. ``layer`` None: the step wrote no file."""

    layer: str | None
    result: dict[str, Any] = field(default_factory=dict)


def read_facts(data: dict[str, Any]) -> ImageFacts:
    """Check the untrusted answer of the fetching program. Raises: BuildError: it has the wrong form."""
    envs, starts, diff_ids = data.get("envs"), data.get("starts"), data.get("diff_ids")
    whole = (
        isinstance(data.get("digest"), str)
        and _DIGEST.match(data["digest"])
        and isinstance(diff_ids, list)
        and len(diff_ids) <= _MAX_LAYERS
        and all(isinstance(one, str) and _DIGEST.match(one) for one in diff_ids)
        and isinstance(envs, dict)
        and len(envs) <= _MAX_ENVS
        and all(_NAME.match(name) and _is_text(value) for name, value in envs.items())
        and _is_text(data.get("user"))
        and _is_text(data.get("workdir"))
        and isinstance(starts, list)
        and len(starts) <= _MAX_WORDS
        and all(isinstance(word, str) for word in starts)
        and sum(map(len, (*envs, *envs.values(), *starts))) <= _MAX_ALL_TEXTS
    )
    if not whole:
        raise BuildError("the image's configuration is not valid")
    assert isinstance(envs, dict)
    assert isinstance(diff_ids, list)
    assert isinstance(starts, list)
    return ImageFacts(
        digest=data["digest"], diff_ids=tuple(diff_ids), envs=envs, user=data["user"], workdir=data["workdir"], starts=tuple(starts)
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT and "\0" not in value


class ImageRecords:
    """All records, in the store at ``root``. Written atomically; an unreadable record counts as absent."""

    def __init__(self, root: Path) -> None:
        self._pulled = root / "images" / "pulled"
        self._made = root / "images" / "made"

    def remember(self, team_id: str, reference: str, facts: ImageFacts, scope: str) -> None:
        """Record that the team pulled the image now."""
        _write(self._pulled / _name(team_id, reference), asdict(PulledImage(facts=facts, scope=scope, at=time.time())))

    def pulled(self, team_id: str, reference: str) -> PulledImage | None:
        """The image that the team pulled last under that reference."""
        path = self._pulled / _name(team_id, reference)
        data = _read(path)
        try:
            os.utime(path)  # a use, so that the garbage collector keeps it
        except OSError:
            return None
        try:
            return None if data is None else PulledImage(facts=read_facts(data["facts"]), scope=data["scope"], at=data["at"])
        except (KeyError, TypeError, BuildError):
            return None

    def note(self, key: str, made: ImageStepResult) -> None:
        """Record the outcome of the step ``key``."""
        _write(self._made / f"{key}.json", asdict(made))

    def made(self, key: str) -> ImageStepResult | None:
        """The outcome of the step ``key``. None: no record."""
        data = _read(self._made / f"{key}.json")
        try:
            return None if data is None else ImageStepResult(**data)
        except TypeError:
            return None


def _name(team_id: str, reference: str) -> str:
    return hashlib.sha256(f"{team_id}\0{reference}".encode()).hexdigest() + ".json"


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    write_whole(path, json.dumps(data))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
