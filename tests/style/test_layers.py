"""Imports go only downward, and the agent shares nothing with the server but the wire formats and the errors.

The import boundary is the trust boundary: what the agent can import is what ships into every sandbox.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sources import PACKAGE, ROOT, parse, python_files

_ALLOWED = {
    "errors": set(),
    "ids": set(),
    "model": {"errors"},
    "protocol": {"errors"},
    "telemetry": {"errors"},
    "config": {"model", "errors"},
    "linux": {"model", "errors"},
    "store": {"model", "errors"},
    "network": {"linux", "model", "errors"},
    "runtime": {"network", "linux", "model", "ids", "errors"},
    "template": {"runtime", "linux", "protocol", "model", "ids", "errors"},
    "node": {"template", "runtime", "network", "linux", "config", "telemetry", "protocol", "model", "ids", "errors"},
    "cluster": {"protocol", "model", "ids", "errors"},
    "control": {"cluster", "store", "protocol", "model", "ids", "errors"},
    "proxy": {"protocol", "errors"},
    "tls": {"errors"},
    "api": {"control", "store", "model", "errors"},
    "agent": {"protocol", "errors"},
    "cli": {"api", "proxy", "control", "cluster", "node", "template", "network", "runtime", "linux"}
    | {"tls", "store", "telemetry", "config", "protocol", "model", "ids", "errors"},
}
"""Package below ``cloister``, and the packages beside itself that it may import."""

_DISTRIBUTIONS = {"multidict": "aiohttp", "yarl": "aiohttp"}
"""Modules of another distribution than their name says; these two are aiohttp's own types."""
_AGENT_LIBRARIES = {"aiohttp"}
_DRIVER_LIBRARIES = {"IPython", "traitlets", "numpy", "pandas", "matplotlib", "PIL", "plotly", "e2b_charts", "zmq"}
"""What the Python driver uses of the template, all of it optional but IPython; zmq is the agent's own, for Jupyter kernels."""
_SLOW_OR_LOOSE = {"asyncio", "aiohttp", "structlog", "sqlite3"}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute module name of every import, also of those inside functions."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or "drivers" in path.parts, f"{path}:{node.lineno}: a relative import"
            yield node.lineno, node.module or ""
            if node.module == "cloister":
                yield from ((node.lineno, f"cloister.{alias.name}") for alias in node.names if alias.name != "__version__")


def _package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def _is_driver(path: Path) -> bool:
    return PACKAGE / "agent" / "drivers" in path.parents


def _is_for_a_template(path: Path) -> bool:
    return PACKAGE / "template" / "stock" in path.parents


_SOURCES = [path for path in python_files("src") if path.parent != PACKAGE or path.stem != "__init__"]


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    """A module imports its own package and those below it."""
    package = _package_of(path)
    wrong = []
    for line, module in _imports(path):
        names = module.split(".")
        if names[0] == "cloister" and len(names) > 1 and names[1] != package and names[1] not in _ALLOWED[package]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {package} must not import {module}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_place() -> None:
    """The table names the packages that there are, so that a new one is thought about."""
    found = {_package_of(path) for path in _SOURCES}
    assert found == set(_ALLOWED)


def test_the_table_has_no_cycle() -> None:
    """The order is one: no two packages may import each other, by whatever way."""

    def below(package: str, seen: tuple[str, ...]) -> None:
        assert package not in seen, " -> ".join((*seen, package))
        for lower in _ALLOWED[package]:
            below(lower, (*seen, package))

    for package in _ALLOWED:
        below(package, ())


def test_foreign_libraries_are_declared() -> None:
    """What the server imports beside the standard library is a declared dependency, and each of those is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.split(">")[0].split("=")[0] for requirement in project["dependencies"]}
    used = set()
    for path in _SOURCES:
        if not _is_driver(path) and not _is_for_a_template(path):
            used |= {module.split(".")[0] for _, module in _imports(path)} - set(sys.stdlib_module_names) - {"cloister"}
    assert {_DISTRIBUTIONS.get(name, name) for name in used} == declared


def test_programs_of_templates_share_nothing_with_the_server() -> None:
    """What is copied into a stock template imports nothing of cloister, and nothing of the server imports it."""
    programs = [path for path in _SOURCES if _is_for_a_template(path)]
    names = {path.parent.name for path in programs}
    assert programs
    for path in _SOURCES:
        imported = {module.split(".")[0] for _, module in _imports(path)}
        assert not imported & ({"cloister"} if path in programs else names), path


def test_the_agent_brings_only_its_listed_libraries() -> None:
    """The agent needs the standard library and the listed libraries; drivers need nothing of cloister."""
    wrong = []
    for path in python_files("src/cloister/agent"):
        siblings = {sibling.stem for sibling in path.parent.glob("*.py")} if _is_driver(path) else {"cloister"}
        allowed = set(sys.stdlib_module_names) | siblings | (_DRIVER_LIBRARIES if _is_driver(path) else _AGENT_LIBRARIES)
        wrong += [f"{path.relative_to(ROOT)}:{line}: {module}" for line, module in _imports(path) if module.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_isolation_code_blocks_and_is_plain() -> None:
    """The layers that make sandboxes use no event loop, HTTP, logging framework or database."""
    wrong = []
    for path in python_files("src/cloister/linux", "src/cloister/runtime", "src/cloister/model", "src/cloister/config"):
        wrong += [f"{path.relative_to(ROOT)}:{line}: {module}" for line, module in _imports(path) if module.split(".")[0] in _SLOW_OR_LOOSE]
    assert not wrong, "\n".join(wrong)


def test_only_the_store_speaks_sql() -> None:
    """The database is opened in one package."""
    wrong = [path for path in _SOURCES if any(module == "sqlite3" for _, module in _imports(path)) and _package_of(path) != "store"]
    assert not wrong, wrong
