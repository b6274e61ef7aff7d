"""A sandbox changes its state by ``model.sandbox.transition`` only."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from .sources import PACKAGE, parse

_TABLE = PACKAGE / "model" / "sandbox.py"
_LATER = ("RUNNING", "ENDING", "ENDED")
"""States that a sandbox does not begin with."""


def _is_later(node: ast.expr) -> bool:
    """Whether the expression is ``SandboxState.X`` for a state that only a transition leads to."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "SandboxState" and node.attr in _LATER


def _bypasses(tree: ast.AST) -> Iterator[int]:
    """Lines that set a state without the table: by ``replace``, by a constructor, by a dictionary of fields or by assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for keyword in node.keywords:
                if keyword.arg == "state" and (name == "replace" or _is_later(keyword.value)):
                    yield node.lineno
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "state" and _is_later(value):
                    yield node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _is_later(node.value):
            yield node.lineno


def test_no_code_goes_around_the_table() -> None:
    """No module but the table's own writes a state into a record."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line}" for path in sorted(PACKAGE.rglob("*.py")) if path != _TABLE for line in _bypasses(parse(path))
    ]
    assert not found, f"use model.sandbox.transition: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "row = replace(row, state=state)",
        "row = dataclasses.replace(row, state=SandboxState.CREATING)",
        "row = Sandbox(sandbox_id=x, state=SandboxState.RUNNING)",
        "change(**{'state': SandboxState.ENDED})",
        "row.state = SandboxState.ENDED",
    ],
)
def test_planted_bypass_is_found(code: str) -> None:
    """The test above fails on each way to set a state."""
    assert list(_bypasses(ast.parse(code))) == [1]


def test_legal_ways_are_not_taken_for_a_bypass() -> None:
    """Creating a sandbox, a transition and a comparison pass."""
    code = "a = Sandbox(state=SandboxState.CREATING)\nb = transition(a, SandboxState.RUNNING)\nc = a.state is SandboxState.ENDED"
    assert not list(_bypasses(ast.parse(code)))
    assert _TABLE.is_file()
