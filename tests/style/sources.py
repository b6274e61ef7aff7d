"""The files of the repository for the style tests, without installed and built ones."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

__all__ = ["PACKAGE", "ROOT", "nodes", "parse", "python_files", "text_files"]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cloister"
_PLACES = ("src", "clients", "tests", "bench", "docs", "examples", "scripts", ".ci", "templates")
_SKIPPED = {"node_modules", "__pycache__", "bin", "results"}


@cache
def _files(place: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for directory, inner, names in os.walk(place):
        inner[:] = [name for name in inner if name not in _SKIPPED and not name.endswith(".egg-info")]
        found += [Path(directory, name) for name in names]
    return tuple(sorted(path for path in found if path.is_file()))


@cache
def text_files() -> tuple[Path, ...]:
    """Every file that the repository carries."""
    placed = [path for place in _PLACES for path in _files(ROOT / place)]
    return (*placed, *sorted(path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"))


def python_files(*places: str) -> list[Path]:
    """The Python files below ``places``, directories of the repository."""
    return [path for place in places for path in _files(ROOT / place) if path.suffix == ".py"]


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of one file's syntax tree."""
    return tuple(ast.walk(parse(path)))
