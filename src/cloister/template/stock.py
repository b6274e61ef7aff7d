"""Definitions of the stock templates: reads ``stock/<name>/template.toml`` and the files it names.

A definition is pure data. It contains everything that decides its outcome (package lists, scripts, kernel sources), so that layer keys can
be computed from it. This module must not run a program or touch the store. Format of ``template.toml``::

    name, parent, aliases, user, workdir, kernel_user, languages, [envs], [limits]
    [[steps]]
    name      one word; shown as progress and used in log names
    kind      "bootstrap" (unpack ``suite`` and ``packages`` into an empty tree), "apt" (install ``packages``), or "run";
              "upgrade" is that of :func:`with_updates` alone
    packages  a list file: one package a line, # comments
    script    a bash file, run after that: offline and without the host layer, unless ``online = true``
    files     further files that the script finds in /.build
    drivers   languages whose agent/drivers/<language>/ is found in /.build/drivers/<language>/
    own       true: a last layer of this template alone. Templates that build on it, and the agent, use only the layers below.
              So a change of such a step rebuilds one layer; a change of any other step rebuilds everything above it.
    shared    a file of ``stock/steps`` that runs as the script

Names of files are relative to the folder. A step that equals a step of another definition, on equal layers, is the same layer.
"""

from __future__ import annotations

import tomllib
import uuid
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cloister.errors import TemplateNotFoundError
from cloister.model.resources import Limits
from cloister.model.template import ON_DEMAND, Template

__all__ = [
    "BASE_SUITE",
    "SOURCE_SUFFIXES",
    "STOCK_NAMES",
    "StockDefinition",
    "StockStep",
    "definition_of",
    "is_stock",
    "load_stock",
    "read_definition",
    "shared_layers",
    "stock_id",
    "with_parents",
    "with_updates",
]

STOCK_NAMES = ("base", "code-interpreter-v1", "mcp-gateway")
"""The templates that ``template build all`` builds, parents first. Those of ``ON_DEMAND`` come after them."""

BASE_SUITE = "trixie"
"""The Debian release of the stock templates."""

_COMPILED_SUFFIXES = (".java", ".c", ".h", ".sh")
"""Of a driver, what a template compiles; its other files are in the agent tree alone."""
SOURCE_SUFFIXES = (".py", ".js", ".mjs", ".java", ".R", ".c", ".h", ".sh", ".json", ".md")
"""Kinds of our files that go into a sandbox. Files that a developer's tools leave beside them do not."""

_ROOT = Path(__file__).parent / "stock"
_DRIVERS = Path(__file__).parent.parent / "agent" / "drivers"
_KINDS = ("bootstrap", "apt", "run")


@dataclass(frozen=True, kw_only=True)
class StockStep:
    """One layer. ``files`` maps a name below /.build to text."""

    name: str
    kind: str
    title: str
    packages: tuple[str, ...] = ()
    suite: str = ""
    script: str = ""
    online: bool = False
    files: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 1800.0
    own: bool = False

    def key_document(self) -> dict[str, Any]:
        """The input of the layer's key: all fields that can change the outcome, but not those that only name the step."""
        return {
            "kind": self.kind, "packages": list(self.packages), "suite": self.suite, "script": self.script, "online": self.online,
            "files": self.files,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StockDefinition:
    """A template to build: its steps on top of ``parent``'s layers, and the settings of its sandboxes."""

    name: str
    parent: str | None
    steps: tuple[StockStep, ...]
    aliases: tuple[str, ...] = ()
    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = "/home/user"
    kernel_user: str = "root"
    languages: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def shared_layers(definition: StockDefinition, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The ``layers`` of a template that others build on: all but its own last ones."""
    return layers[: len(layers) - sum(step.own for step in definition.steps)]


def with_updates(definition: StockDefinition, edition: str) -> StockDefinition:
    """``definition`` with a layer of its own that brings all packages up to date; unchanged if the edition is empty.

    The agent and the templates above stand on the layers below it, so that they are not built again.
    """
    if not edition:
        return definition
    updates = StockStep(name="updates", kind="upgrade", title="updates of the distribution", script=f"# edition {edition}\n", own=True)
    first = next((place for place, step in enumerate(definition.steps) if step.own), len(definition.steps))
    return replace(definition, steps=(*definition.steps[:first], updates, *definition.steps[first:]))


def definition_of(template: Template) -> StockDefinition:
    """The present definition of a built stock template, in its edition. Raises: TemplateNotFoundError."""
    return with_updates(load_stock(template.name), template.edition)


def load_stock(name: str) -> StockDefinition:
    """The stock definition ``name``.

    Raises:
        TemplateNotFoundError: there is no such stock template.
    """
    if name not in (*STOCK_NAMES, *ON_DEMAND):
        raise TemplateNotFoundError(f"there is no stock template '{name}'", hint=f"there are: {', '.join((*STOCK_NAMES, *ON_DEMAND))}")
    return read_definition(name)


def stock_id(name: str) -> str:
    """The id of the stock template ``name``, the same on every machine."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"cloister/{name}").hex[:20]


def is_stock(template: Template) -> bool:
    """Whether a record that another machine sent has the names of a stock template of this release, and no others."""
    if template.name not in (*STOCK_NAMES, *ON_DEMAND) or template.template_id != stock_id(template.name):
        return False
    return _aliases(template.name).issuperset(template.aliases)


@cache
def _aliases(name: str) -> frozenset[str]:
    return frozenset(load_stock(name).aliases)


def with_parents(name: str) -> tuple[str, ...]:
    """The stock template and those it stands on, the lowest first. Raises: TemplateNotFoundError."""
    parent = load_stock(name).parent
    return (*(with_parents(parent) if parent else ()), name)


def read_definition(name: str) -> StockDefinition:
    """The definition in the folder ``stock/<name>``, of a stock template or of a tree that is built like one."""
    folder = _ROOT / name
    data = tomllib.loads((folder / "template.toml").read_text())
    steps = tuple(_step(folder, entry) for entry in data["steps"])
    if [step.own for step in steps] != sorted(step.own for step in steps):
        raise ValueError(f"{folder.name}: a step with own = true comes before one without")
    return StockDefinition(
        name=data["name"],
        parent=data.get("parent"),
        steps=steps,
        aliases=tuple(data.get("aliases", ())),
        envs=dict(data.get("envs", {})),
        user=data.get("user", "user"),
        workdir=data.get("workdir", "/home/user"),
        kernel_user=data.get("kernel_user", "root"),
        languages=tuple(data.get("languages", ())),
        limits=Limits(**data.get("limits", {})),
    )


def _step(folder: Path, entry: dict[str, Any]) -> StockStep:
    if entry["kind"] not in _KINDS:
        raise ValueError(f"{folder.name}: step {entry['name']} has kind {entry['kind']!r}, not one of {_KINDS}")
    files = {_name_inside(name): (folder / name).read_text() for name in entry.get("files", ())}
    for language in entry.get("drivers", ()):
        files |= _driver_files(language)
    return StockStep(
        name=entry["name"],
        kind=entry["kind"],
        title=entry.get("title", entry["name"]),
        packages=_packages(folder / entry["packages"]) if "packages" in entry else (),
        suite=entry.get("suite", ""),
        script=_script(folder, entry),
        online=entry.get("online", False),
        files=files,
        timeout_s=float(entry.get("timeout_s", 1800.0)),
        own=entry.get("own", False),
    )


def _name_inside(name: str) -> str:
    """The name below /.build of a file of the definition, which may be another definition's (``../agent/requirements.txt``)."""
    return Path(name).name if name.startswith("../") else name


def _script(folder: Path, entry: dict[str, Any]) -> str:
    if "shared" in entry:
        return (_ROOT / "steps" / str(entry["shared"])).read_text()
    return (folder / str(entry["script"])).read_text() if "script" in entry else ""


def _packages(path: Path) -> tuple[str, ...]:
    lines = (line.split("#", 1)[0].strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line)


def _driver_files(language: str) -> dict[str, str]:
    folder = _DRIVERS / language
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _COMPILED_SUFFIXES)
    return {f"drivers/{language}/{path.relative_to(folder)}": path.read_text() for path in paths}
