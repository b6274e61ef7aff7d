"""Imports go only downward, and the agent shares nothing with the server but the wire formats and the errors.

The import boundary is the trust boundary: what the agent can import is what ships into every sandbox.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from .sources import PACKAGE, ROOT, nodes, python_files

_ALLOWED = {
    "errors": set(),
    "ids": set(),
    "model": {"ids", "errors"},
    "protocol": {"errors"},
    "agentclient": {"protocol", "errors"},
    "nodewire": {"protocol", "model", "ids", "errors"},
    "egresswire": {"model", "ids", "errors"},
    "egress": {"egresswire", "network", "tls", "telemetry", "linux", "protocol", "model", "ids", "errors"},
    "telemetry": {"errors"},
    "config": {"model", "errors"},
    "linux": {"model", "errors"},
    "store": {"model", "errors"},
    "network": {"linux", "egresswire", "model", "errors"},
    "disks": {"linux", "errors"},
    "runtime": {"disks", "network", "linux", "protocol", "model", "ids", "errors"},
    "runtime.namespace": {"runtime", "disks", "network", "linux", "protocol", "model", "ids", "errors"},
    "runtime.gvisor": {"agentclient", "runtime", "disks", "network", "linux", "protocol", "model", "ids", "errors"},
    "template": {"agentclient", "tls", "runtime", "disks", "linux", "protocol", "model", "ids", "errors"},
    "node": {"template", "agentclient", "runtime", "disks", "network", "linux", "tls", "config", "telemetry", "nodewire", "egresswire"}
    | {"protocol", "model", "ids", "errors"},
    "backup": {"node", "template", "store", "linux", "model", "ids", "errors"},
    "cluster": {"nodewire", "model", "ids", "errors"},
    "control": {"cluster", "agentclient", "store", "nodewire", "egresswire", "protocol", "model", "ids", "errors"},
    "proxy": {"telemetry", "protocol", "model", "errors"},
    "tls": {"config", "errors"},
    "api": {"control", "telemetry", "protocol", "model", "errors"},
    "agent": {"protocol", "errors"},
    "processes": {"api", "proxy", "agentclient", "control", "cluster", "node", "template", "runtime", "disks", "network", "linux"}
    | {"tls", "store", "telemetry", "config", "nodewire", "egresswire", "egress", "protocol", "model", "ids", "errors"},
    "client": {"config", "protocol", "model", "errors"},
    "cli": {"client", "processes", "backup", "control", "node", "template", "runtime", "network", "linux"}
    | {"tls", "store", "config", "protocol", "model", "ids", "errors"},
}
"""Package below ``cloister``, and the packages beside itself that it may import."""

_IMPLEMENTATIONS = ("runtime.gvisor", "runtime.namespace")
"""Each runtime is a package of its own."""
_NAMESPACES = ("cloister", "cloister.runtime")
"""Packages whose names may be packages of the table."""
_OPTIONAL = ("telemetry/otlp.py", "store/postgres.py", "store/postgres_migrate.py", "store/postgres_sharing.py")
"""The modules that import the libraries of the extras ``otel`` and ``cluster``; they are imported only where there are traces or a shared
database."""
_RUNTIMES = "node/runtimes.py"
"""The one module above the runtimes that may import their implementations."""

_DISTRIBUTIONS = {"multidict": "aiohttp", "yarl": "aiohttp", "jwt": "pyjwt", "prometheus_client": "prometheus-client"}
"""Modules of another distribution than their name says; these two are aiohttp's own types."""
_AGENT_LIBRARIES = {"aiohttp"}
_DRIVER_LIBRARIES = {"IPython", "traitlets", "numpy", "pandas", "matplotlib", "PIL", "plotly", "zmq"}
"""The template's libraries that the Python driver uses, all of them optional but IPython; zmq is the agent's own, for Jupyter kernels."""
_SLOW_OR_LOOSE = {"asyncio", "aiohttp", "structlog", "sqlite3"}


@cache
def _imports(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple(_imports_of(nodes(path), path))


def _imports_of(found: Iterable[ast.AST], path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute module name of every import, also of those inside functions."""
    for node in found:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.lineno, node.module or ""
            if node.module in _NAMESPACES:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names if alias.name != "__version__")


def _package_of(parts: Sequence[str]) -> str:
    """The package of a module whose name, without ``cloister``, is ``parts``: an implementation of a runtime is one of its own."""
    nested = ".".join(parts[:2])
    return nested if nested in _ALLOWED else parts[0]


def _package_at(path: Path) -> str:
    return _package_of(path.relative_to(PACKAGE).with_suffix("").parts)


def _is_driver(path: Path) -> bool:
    return PACKAGE / "agent" / "drivers" in path.parents


def _driver_modules(path: Path) -> set[str]:
    """Modules of our own that a driver's file may import: the modules that all drivers share, and its own driver's package."""
    drivers = PACKAGE / "agent" / "drivers"
    own = drivers / path.relative_to(drivers).parts[0]
    modules = {one.stem for folder in (drivers, own) for one in folder.glob("*.py")}
    return {own.name, *modules, *(one.parent.name for one in own.glob("*/__init__.py"))}


def _is_for_a_template(path: Path) -> bool:
    return PACKAGE / "template" / "stock" in path.parents


_SOURCES = [path for path in python_files("src") if path.parent != PACKAGE or path.stem != "__init__"]


def _upward_imports(path: Path, imports: Iterable[tuple[int, str]]) -> list[str]:
    """Each of the ``imports`` of the module at ``path`` that the table does not allow."""
    package = _package_at(path)
    allowed = {package} | _ALLOWED[package] | (set(_IMPLEMENTATIONS) if path == PACKAGE / _RUNTIMES else set())
    wrong = []
    for line, module in imports:
        first, *names = module.split(".")
        if first == "cloister" and names and _package_of(names) not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {package} must not import {module}")
    return wrong


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    """A module imports its own package and those below it."""
    wrong = _upward_imports(path, _imports(path))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "from cloister.runtime.namespace.runtime import NamespaceRuntime",
        "from cloister.runtime import namespace",
        "import cloister.runtime.namespace.zone as zone",
        "def late():\n    from cloister.runtime.namespace import sandbox",
    ],
)
@pytest.mark.parametrize("place", ["node/snapshots.py", "node/host.py", "template/building/copier.py", "cli/census.py", "runtime/base.py"])
def test_an_import_of_a_runtime_is_found(place: str, line: str) -> None:
    """A planted import of an implementation fails everywhere but in the module that lists the runtimes."""
    imports = list(_imports_of(ast.walk(ast.parse(line)), PACKAGE / place))
    assert len(_upward_imports(PACKAGE / place, imports)) >= 1
    assert not _upward_imports(PACKAGE / _RUNTIMES, imports)


def test_names_of_implementations_stand_in_no_other_text() -> None:
    """No module above the runtimes reaches an implementation by its name in a string, as ``importlib`` takes it."""
    names = tuple(f"cloister.{name}" for name in _IMPLEMENTATIONS)
    for path in _SOURCES:
        if _package_at(path) not in _IMPLEMENTATIONS and path != PACKAGE / _RUNTIMES:
            found = [node.value for node in nodes(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            assert not [text for text in found if text.startswith(names)], path


def test_every_package_has_its_place() -> None:
    """The table names the packages that there are, so that a new one is thought about."""
    found = {_package_at(path) for path in _SOURCES}
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
    """Every library that the server imports beside the standard one is a declared dependency, and each of those is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.split(">")[0].split("=")[0] for requirement in project["dependencies"]}
    used = set()
    for path in _SOURCES:
        if not _is_driver(path) and not _is_for_a_template(path) and path not in {PACKAGE / name for name in _OPTIONAL}:
            used |= {module.split(".")[0] for _, module in _imports(path)} - set(sys.stdlib_module_names) - {"cloister"}
    assert {_DISTRIBUTIONS.get(name, name) for name in used} == declared

def test_programs_of_templates_share_nothing_with_the_server() -> None:
    """A program for a stock template imports nothing of cloister, and nothing of the server imports it."""
    programs = [path for path in _SOURCES if _is_for_a_template(path)]
    names = {path.parent.name for path in programs}
    assert programs
    for path in _SOURCES:
        imported = {module.split(".")[0] for _, module in _imports(path)}
        assert not imported & ({"cloister"} if path in programs else names), path


def test_clients_share_nothing_with_the_server() -> None:
    """``clients/mcp`` brings the libraries that it declares and nothing of cloister; the server imports nothing of it."""
    project = tomllib.loads((ROOT / "clients" / "mcp" / "pyproject.toml").read_text())["project"]
    declared = {requirement.split(">")[0].split("=")[0] for requirement in project["dependencies"]}
    used = {module.split(".")[0] for path in python_files("clients/mcp") for _, module in _imports(path)}
    assert "cloister" not in used
    assert {name.replace("_", "-") for name in used - set(sys.stdlib_module_names) - {"cloister_mcp"}} == declared
    assert not [path for path in _SOURCES for _, module in _imports(path) if module.split(".")[0] == "cloister_mcp"]


def test_the_agent_brings_only_its_listed_libraries() -> None:
    """The agent needs the standard library and the listed libraries; drivers need nothing of cloister."""
    wrong = []
    for path in python_files("src/cloister/agent"):
        siblings = _driver_modules(path) if _is_driver(path) else {"cloister"}
        allowed = set(sys.stdlib_module_names) | siblings | (_DRIVER_LIBRARIES if _is_driver(path) else _AGENT_LIBRARIES)
        wrong += [f"{path.relative_to(ROOT)}:{line}: {module}" for line, module in _imports(path) if module.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_isolation_code_blocks_and_is_plain() -> None:
    """The layers that make sandboxes use no event loop, HTTP, logging framework or database."""
    wrong = []
    for path in python_files(*(f"src/cloister/{name}" for name in ("linux", "disks", "runtime", "model", "config"))):
        wrong += [f"{path.relative_to(ROOT)}:{line}: {module}" for line, module in _imports(path) if module.split(".")[0] in _SLOW_OR_LOOSE]
    assert not wrong, "\n".join(wrong)


def test_only_commands_parse_a_command_line() -> None:
    """``processes`` gets its settings and descriptors as arguments, so that ``cli`` alone reads the command line."""
    wrong = [path for path in python_files("src/cloister/processes") if any(module == "argparse" for _, module in _imports(path))]
    assert not wrong, wrong


def test_only_the_store_speaks_sql() -> None:
    """The database is opened in one package."""
    wrong = [path for path in _SOURCES if any(module == "sqlite3" for _, module in _imports(path)) and _package_at(path) != "store"]
    assert not wrong, wrong
