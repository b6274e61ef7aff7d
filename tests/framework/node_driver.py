"""A Node driver in the code-interpreter root, and what tests ask of its messages."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import TemplateNotFoundError
from cloister.template.agenttree import agent_tree
from cloister.template.layers import LayerStore
from framework.driver_root import DRIVER_SOURCE, DRIVERS, DriverProcess, DriverRoot, store_dir

__all__ = ["ARGV", "TAKEN", "Messages", "Start", "error", "node", "node_modules", "start", "text", "value"]

ARGV = ["/usr/bin/node", f"{DRIVERS}/node/main.js"]
_NAMES = (
    "Array Atomics Boolean Buffer Date Error JSON Map Math Number Object Promise Reflect RegExp Set String Symbol TypeError"
    " clearTimeout process setImmediate setTimeout"
)
TAKEN = "; ".join(f"const {name} = 1" for name in _NAMES.split())
"""A cell that declares names of globals."""
Messages = list[dict[str, Any]]
Start = Callable[[], DriverProcess]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's libraries: those of a built agent tree, or installed from the lock file."""
    with contextlib.suppress(TemplateNotFoundError):  # another version's tree may be collected while it is in use here
        return agent_tree(store_dir(), LayerStore(store_dir()).template("base")) / "drivers" / "node_modules"
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    place = tmp_path_factory.mktemp("drivers")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(DRIVER_SOURCE / name, place)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=place, check=True, capture_output=True)
    return place / "node_modules"


@pytest.fixture
def start(driver_root: DriverRoot, node_modules: Path) -> Start:
    """Starts a kernel with the libraries in place."""
    return lambda: driver_root.start(ARGV, binds={node_modules: "/.cloister/agent/node_modules"})


@pytest.fixture
def node(start: Start) -> DriverProcess:
    """A running kernel."""
    return start()


def text(messages: Messages, op: str = "stdout") -> str:
    """All text of one stream."""
    return "".join(message["text"] for message in messages if message["op"] == op)


def value(messages: Messages) -> Any:
    """The text of the one main result, or None."""
    results = [message for message in messages if message["op"] == "result"]
    assert len(results) <= 1, results
    return results[0]["data"].get("text/plain") if results else None


def error(messages: Messages) -> dict[str, Any]:
    """The one error of a run."""
    errors = [message for message in messages if message["op"] == "error"]
    assert len(errors) == 1, messages
    return errors[0]
