"""The files of the repository for the style tests, without installed and built ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["PACKAGE", "ROOT", "parse", "python_files", "text_files"]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cloister"
_PLACES = ("src", "clients", "tests", "bench", "docs", "examples", "scripts", ".ci", "templates")
_SKIPPED = {"node_modules", "__pycache__", "bin", "results"}


def _files(place: Path) -> Iterator[Path]:
    for path in sorted(place.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not _SKIPPED.intersection(parts) and not any(part.endswith(".egg-info") for part in parts):
            yield path


def text_files() -> Iterator[Path]:
    """Every file that the repository carries."""
    for place in _PLACES:
        if (ROOT / place).is_dir():
            yield from _files(ROOT / place)
    yield from sorted(path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")


def python_files(*places: str) -> list[Path]:
    """The Python files below ``places``, directories of the repository."""
    return [path for place in places for path in _files(ROOT / place) if path.suffix == ".py"]


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
