"""The exception tree has no dead class."""

from __future__ import annotations

import ast

from cloister import errors

from .sources import PACKAGE, nodes, python_files


def _created() -> set[str]:
    """Names of everything that the package calls, such as ``NotFoundError(...)``."""
    calls = [node.func for path in python_files("src") for node in nodes(path) if isinstance(node, ast.Call)]
    return {func.id for func in calls if isinstance(func, ast.Name)} | {func.attr for func in calls if isinstance(func, ast.Attribute)}


def test_every_error_is_raised() -> None:
    """A class that no code creates, and that no other class extends, is deleted."""
    classes = [getattr(errors, name) for name in errors.__all__ if name != "from_code"]
    created = _created()
    dead = [one.__name__ for one in classes if one.__name__ not in created and not one.__subclasses__()]
    assert not dead, f"{PACKAGE.name}/errors.py: no code raises {dead}"
