"""Small programs whose oracle is the language's plain interpreter or compiler, in files of many.

A file of ``tests/differential/<language>/`` holds programs of one topic. Each begins after a line ``# === name``, in which the comment sign
is the language's own; a text before the first such line belongs to no program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Program", "programs"]

_AT_LEAST = 150
"""Programs of each language: fewer mean that a file is not read as it should be."""
_ROOT = Path(__file__).parents[1] / "differential"
_HEAD = re.compile(r"^[^\w\n]{1,4} === ([\w .,+-]+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """One program; ``topic`` is its file's name without the ending."""

    topic: str
    name: str
    code: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.name}"


def programs(language: str) -> list[Program]:
    """All programs of a language, in the order of their files' names; no two have the same topic and name."""
    found = []
    for path in sorted((_ROOT / language).iterdir()):
        _, *parts = _HEAD.split(path.read_bytes().decode())
        found += [Program(path.stem, name, code) for name, code in zip(parts[::2], parts[1::2], strict=True)]
    assert len({str(program) for program in found}) == len(found), f"names of programs of {language} are used twice"
    assert len(found) >= _AT_LEAST, f"only {len(found)} programs of {language} were found"
    return found
