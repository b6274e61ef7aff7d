"""Sizes and docstrings: what keeps each file readable in one sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .sources import ROOT, nodes, parse, python_files, text_files

_MAX_LINES = 500
_MAX_FUNCTION_LINES = 60
_MAX_PARAMETERS = 7
"""Six, and self."""
_CODE = {".py", ".c", ".h", ".js", ".mjs", ".java", ".R", ".sh", ".md", ".toml"}
_ALL = python_files("src", "clients", "tests", "bench")
_SCRIPTS = {"drivers"}
"""Directories whose modules are programs, not libraries."""


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_are_short() -> None:
    """No file of code or text that people write has more than 500 lines; the lists of settings and of the API are generated."""
    generated = {ROOT / "docs" / "configuration.md", ROOT / "docs" / "api.md"}
    written = [path for path in text_files() if path.suffix in _CODE and path not in generated]
    sizes = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in written}
    assert not {name: size for name, size in sizes.items() if size > _MAX_LINES}


@pytest.mark.parametrize("path", _ALL, ids=_id)
def test_functions_are_short(path: Path) -> None:
    """No function has more than 60 lines or six parameters beside ``self``; keyword-only ones name themselves and are not counted."""
    wrong = []
    for node in _functions(path):
        lines = (node.end_lineno or 0) - node.lineno + 1
        parameters = len(node.args.posonlyargs) + len(node.args.args)
        if lines > _MAX_FUNCTION_LINES:
            wrong.append(f"{node.name}: {lines} lines")
        if parameters > _MAX_PARAMETERS:
            wrong.append(f"{node.name}: {parameters} parameters")
    assert not wrong, wrong


@pytest.mark.parametrize("path", _ALL, ids=_id)
def test_modules_say_what_they_are(path: Path) -> None:
    """Every module begins with a docstring, and one that others import lists its public names."""
    tree = parse(path)
    assert ast.get_docstring(tree), "no docstring"
    if path.relative_to(ROOT).parts[0] not in {"src", "clients"} or path.stem == "__init__" or _SCRIPTS.intersection(path.parts):
        return
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_"]
    program = any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in tree.body)
    has_all = any(isinstance(node, ast.Assign) and "__all__" in ast.dump(node.targets[0]) for node in tree.body)
    assert has_all or program or not public, "public names, but no __all__"


@pytest.mark.parametrize("path", python_files("tests"), ids=_id)
def test_tests_say_what_they_test(path: Path) -> None:
    """Every test has a docstring, whose first sentence is the behaviour."""
    wrong = [node.name for node in _functions(path) if node.name.startswith("test_") and not ast.get_docstring(node)]
    assert not wrong, wrong


def _catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether it takes any exception and does not raise it again."""
    wide = handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id in {"Exception", "BaseException"})
    return wide and not any(isinstance(node, ast.Raise) for node in handler.body)


def test_names_of_test_files_are_unique() -> None:
    """Pytest takes two files of one name for the same module, and then runs none."""
    names = [path.name for path in python_files("tests") if path.name.startswith("test_") and not (path.parent / "__init__.py").exists()]
    assert sorted(names) == sorted(set(names))


def test_no_catch_all_below_the_borders() -> None:
    """An exception of any kind is swallowed only at a border, with the reason beside it; drivers run foreign code and are such a border."""
    wrong = []
    for path in python_files("src", "clients"):
        lines = path.read_text(encoding="utf-8").splitlines()
        handlers = [node for node in nodes(path) if isinstance(node, ast.ExceptHandler) and _catches_all(node)]
        wrong += [f"{_id(path)}:{node.lineno}" for node in handlers if "#" not in lines[node.lineno - 1] and "drivers" not in path.parts]
    assert not wrong, "\n".join(wrong)


_KERNEL_MODULES = [
    path for path in python_files(*(f"src/cloister/{name}" for name in ("linux", "disks", "runtime"))) if path.stem != "__init__"
]


@pytest.mark.parametrize("path", _KERNEL_MODULES, ids=_id)
def test_kernel_modules_say_where_they_run(path: Path) -> None:
    """A module that changes kernel objects names the process that it runs in and the privilege that it needs."""
    text = ast.get_docstring(parse(path)) or ""
    assert "Runs in:" in text
    assert "Needs:" in text


_SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore)")
_REASONED = re.compile(r"# noqa: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)* - \w|# type: ignore\[[a-z0-9, -]+\]  # \w")


def test_suppressions_have_a_code_and_a_reason() -> None:
    """``# noqa: CODE - reason`` and ``# type: ignore[code]  # reason``; not in stock templates, which a changed comment would rebuild."""
    wrong = []
    for path in _ALL:
        if "stock" in path.parts or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _SUPPRESSION.search(line) and not _REASONED.search(line):
                wrong.append(f"{_id(path)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)
