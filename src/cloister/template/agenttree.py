"""The agent tree, mounted at ``/.cloister/agent``. Built once for each version of the agent's sources.

Owns ``<store>/agent/<sha256>/``: ``site/`` has the agent's libraries and the packages that agent and server share, ``drivers/`` the
language drivers and their Node modules. A sandbox on the base template installs and compiles the libraries, with the interpreter that will
run them. No foreign code runs on the host, and no install script runs at all (only wheels, and ``npm ci --ignore-scripts``). The libraries
are a layer of their own, so that a changed source needs no network.

All sandboxes run the tree that is made on ``base``. Only a store that has no ``base`` yet, but ``starter``, runs the one made on that: it
lacks what Node.js or a compiler makes: the drivers for Node.js, ``borrow`` (builds from images), ``become`` (commands start by a fork).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cloister
from cloister.errors import TemplateNotFoundError
from cloister.model.template import STARTER, Template
from cloister.template.layers import LayerStore, layer_key
from cloister.template.stock import SOURCE_SUFFIXES, StockDefinition, StockStep, definition_of, read_definition, shared_layers
from cloister.template.stockbuilder import StockBuildContext, build_layers, layer_keys, run_logged

__all__ = ["agent_template", "agent_tree", "ensure_agent_tree", "interpreter_layers", "library_layers"]

_SOURCE = Path(cloister.__file__).parent
_SHARED = ("__init__.py", "errors.py", "protocol", "agent")
_DRIVERS = _SOURCE / "agent" / "drivers"
_OUTPUT = "agent-tree"
_BASE = "base"
_DEFINITIONS = {_BASE: "agent", STARTER: "agent-starter"}
"""The templates that a tree can be made on, the preferred one first, and the definition of the tree."""


def agent_template(store: LayerStore) -> Template:
    """The template with whose tree the sandboxes of a store run: ``base``, or ``starter`` while ``base`` was not built.

    Raises:
        TemplateNotFoundError: there is neither, or a layer of it is gone.
    """
    known = {one.name for one in store.records()}
    return store.template(next((name for name in _DEFINITIONS if name in known), _BASE))


def agent_tree(store_root: Path, base: Template) -> Path:
    """The path of the tree of the present sources, made on the template ``base``.

    Raises:
        TemplateNotFoundError: it was not built.
    """
    path = _tree_path(store_root, base)
    if not path.is_dir():
        raise TemplateNotFoundError("the agent's tree is not built for this version", hint="run: cloister template build all")
    return path


def ensure_agent_tree(base: Template, context: StockBuildContext) -> Path:
    """The tree of the present sources; builds it if it is missing. Blocking; safe against other builds on the store.

    Raises:
        BuildError: a step failed.
    """
    path = _tree_path(context.store.root, base)
    if path.is_dir():
        return path
    libraries, tree = _definitions(base.name)
    below = build_layers(libraries, interpreter_layers(base), context)
    context.progress.step_started("agent", len(libraries.steps) + 1, len(libraries.steps) + 1, tree)
    started = time.monotonic()
    with context.store.lock(path.name, on_wait=context.progress.step_waiting), context.store.workspace(path.name) as workspace:
        if not path.is_dir():
            run_logged("agent", tree, path.name, below, workspace, context)
            (workspace.upper / _OUTPUT).rename(path)
    context.progress.step_done(time.monotonic() - started, None, cached=False)
    return path


def library_layers(base: Template) -> tuple[str, ...]:
    """The layers with the present libraries, on which the agent tree is made. No template has them."""
    return layer_keys(_definitions(base.name)[0], interpreter_layers(base))


def interpreter_layers(base: Template) -> tuple[str, ...]:
    """The layers of the template that hold the agent's interpreter. The libraries are built on them."""
    return shared_layers(definition_of(base), base.layers)


def _tree_path(store_root: Path, base: Template) -> Path:
    libraries, tree = _definitions(base.name)
    return store_root / "agent" / layer_key(layer_keys(libraries, interpreter_layers(base))[-1], tree.key_document())


def _definitions(name: str) -> tuple[StockDefinition, StockStep]:
    """The definition of the library layer, and the step that makes the tree on top of it."""
    definition = read_definition(_DEFINITIONS[name])
    libraries, tree = definition.steps
    packages = {f"drivers/{one}": (_DRIVERS / one).read_text() for one in ("package.json", "package-lock.json")}
    files = {**libraries.files, **(packages if name == _BASE else {})}
    return replace(definition, steps=(replace(libraries, files=files),)), replace(tree, files=_sources())


def _sources() -> dict[str, str]:
    """Our own files in the tree: shared packages below ``site/cloister``, the drivers below ``drivers``."""
    shared = [_SOURCE / name for name in _SHARED]
    ours = [path for root in shared for path in _files(root) if not path.is_relative_to(_DRIVERS)]
    found = {f"site/cloister/{path.relative_to(_SOURCE)}": path for path in ours}
    found |= {f"drivers/{path.relative_to(_DRIVERS)}": path for path in _files(_DRIVERS)}
    return {name: path.read_text() for name, path in sorted(found.items())}


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return [path for path in root.rglob("*") if path.suffix in SOURCE_SUFFIXES and "node_modules" not in path.parts]
