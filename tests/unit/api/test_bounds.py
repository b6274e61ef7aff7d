"""The table of bounds is whole: every text that the API reads of a body has its bound there, and nothing else is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from cloister import api
from cloister.api.bounds import BOUNDS

_TAKES = {"take_list", "take_optional_list", "take_texts", "take_items"}


def _names(path: Path) -> Iterator[str]:
    """The fields that ``path`` reads as texts, or as lists or objects of them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        first, second = (*node.args, None, None)[:2]
        takes_text = node.func.attr == "take" and isinstance(second, ast.Name) and second.id == "str"
        if takes_text or node.func.attr in _TAKES:
            yield str(first.value) if isinstance(first, ast.Constant) else ast.unparse(first or node)


def test_every_text_has_a_bound() -> None:
    """The table has the name of every text that is read. (One call gets the name from its callers: ``name`` or ``target``.)"""
    read = {name for path in Path(api.__file__).parent.glob("*.py") if path.name != "fields.py" for name in _names(path)}
    assert read | {"target"} == {field.rpartition(".")[2] for field in BOUNDS}
