"""Whether a program runs in the template ``starter``, which has Python's standard library and bash alone, and what else it needs.

``scripts/quickstart`` asks this too, before a server runs: ``python -m cloister.cli.starter FILE`` prints what the program needs beyond
``starter``, in words; it prints nothing for a program that ``starter`` runs. Only Python programs are looked into, by their imports: a
program that imports by name at run time, or starts programs, can still find that something is missing.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from cloister.protocol.languages import NATIVE_LANGUAGES

__all__ = ["needs_beyond_starter"]

_LANGUAGES = ("python", "bash")
_SHOWN = 3


def needs_beyond_starter(language: str, source: bytes) -> str:
    """``imports numpy, pandas`` or ``is javascript``; empty: the program runs in ``starter``, as far as its text shows."""
    if language not in _LANGUAGES:
        return f"is {language}"
    if language != "python":
        return ""
    names = sorted(_imports(source) - sys.stdlib_module_names)
    return f"imports {', '.join(names[:_SHOWN])}{' and more' if names[_SHOWN:] else ''}" if names else ""


def _imports(source: bytes) -> set[str]:
    """The top-level names of modules that a Python program imports; none if it has a fault, which Python itself then shows."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _main(file: Path) -> None:
    languages = {extension: language.name for language in NATIVE_LANGUAGES for extension in language.extensions}
    print(needs_beyond_starter(languages.get(file.suffix.lower(), "a program of an unknown language"), file.read_bytes()), end="")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
