"""The stock definitions themselves, and what they are read into."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import TemplateNotFoundError
from cloister.model.template import ON_DEMAND
from cloister.template import stock
from cloister.template.agenttree import _definitions
from cloister.template.stock import STOCK_NAMES, is_stock, load_stock, read_definition, shared_layers
from cloister.template.stockbuilder import layer_keys, stock_record

PYTHON = {
    "numpy", "pandas", "scipy", "matplotlib", "seaborn", "scikit-learn", "plotly", "bokeh", "sympy", "pillow", "requests",
    "httpx", "beautifulsoup4", "openpyxl", "python-docx", "pytest", "xarray", "numba", "scikit-image", "opencv-python-headless",
    "networkx", "orjson", "ipykernel", "e2b_charts",
}  # fmt: skip


def test_every_stock_template_loads_and_stands_on_an_earlier_one() -> None:
    """All definitions parse, parents come first, and a stack stays below ten layers."""
    seen: dict[str, int] = {}
    for name in (*STOCK_NAMES, *ON_DEMAND):
        definition = load_stock(name)
        assert definition.name == name
        below = seen[definition.parent] if definition.parent else 0
        assert below + len(definition.steps) <= 10
        seen[name] = below + sum(not step.own for step in definition.steps)


@pytest.mark.parametrize("name", [*STOCK_NAMES, *ON_DEMAND])
def test_a_record_has_the_names_of_its_definition_alone(name: str) -> None:
    """A record of another machine with another name, id or alias is none of a stock template."""
    record = stock_record(load_stock(name), ("0" * 64,), "")
    assert is_stock(record)
    for changed in ({"name": "other"}, {"template_id": "0" * 20}, {"aliases": (*record.aliases, "other")}):
        assert not is_stock(replace(record, **changed))


def test_templates_do_not_stand_on_another_ones_own_layers() -> None:
    """A template's own last step can change without what builds on it; every stock template has the login files as such a step."""
    base = load_stock("base")
    changed = replace(base, steps=(*base.steps[:-1], replace(base.steps[-1], script="other\n")))
    keys, others = layer_keys(base, ()), layer_keys(changed, ())
    assert keys[-1] != others[-1]
    assert shared_layers(base, keys) == shared_layers(changed, others) == keys[:-1]
    for name in (*STOCK_NAMES, *ON_DEMAND):
        last = load_stock(name).steps[-1]
        assert last.own
        assert last.script == base.steps[-1].script


def test_an_own_step_comes_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shared step cannot stand on a step of the template alone."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "template.toml").write_text(
        'name = "t"\n[[steps]]\nname = "a"\nkind = "run"\nown = true\n[[steps]]\nname = "b"\nkind = "run"\n'
    )
    monkeypatch.setattr(stock, "_ROOT", tmp_path)
    with pytest.raises(ValueError, match="own = true comes before"):
        read_definition("t")


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The error says which stock templates there are."""
    with pytest.raises(TemplateNotFoundError, match="code-interpreter-v1"):
        load_stock("nope")


def test_agents_are_locked() -> None:
    """A program of npm is in its template as one version with its digest and those of all that it needs, from whatever mirror there is."""
    for name in ("claude", "codex", "opencode"):
        files = load_stock(name).steps[0].files
        lock = json.loads(files["package-lock.json"])["packages"]
        wanted = json.loads(files["package.json"])
        assert wanted["name"] == name
        assert lock[""]["dependencies"] == wanted["dependencies"]
        assert all("integrity" in package and "resolved" not in package for path, package in lock.items() if path)


def test_every_promised_python_package_is_pinned() -> None:
    """Each package that users may count on is installed, at a version fixed by the constraints."""
    step = next(step for step in load_stock("code-interpreter-v1").steps if step.name == "python")
    lines = step.files["requirements.txt"].splitlines()
    wanted = {re.split("==", line)[0] for line in lines if not line.startswith("#")}
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in step.files["constraints.txt"].splitlines() if "==" in line}
    assert wanted >= PYTHON
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned


def test_kernel_sources_are_part_of_the_layer_that_builds_them() -> None:
    """The Java and R drivers travel into their step, so a change of them changes the layer's key."""
    step = next(step for step in load_stock("code-interpreter-v1").steps if step.name == "kernels")
    assert {"drivers/java/build.sh", "drivers/java/Kernel.java", "drivers/r/build.sh"} <= set(step.files)


def test_the_agent_tree_holds_what_crosses_the_border_and_no_more() -> None:
    """Of our own code only the agent, the protocol and the errors go inside, drivers apart from the package."""
    _, tree = _definitions("base")
    packages = {name.split("/")[2] for name in tree.files if name.startswith("site/cloister/")}
    assert packages == {"__init__.py", "errors.py", "protocol", "agent"}
    assert "drivers/python/main.py" in tree.files
    unwanted = ("site/cloister/agent/drivers/", "node_modules", "__pycache__")
    assert not [name for name in tree.files if any(part in name for part in unwanted)]


def test_the_agent_tree_does_not_change_with_the_wire_to_the_supervisor() -> None:
    """The node protocol is between two host processes: no source in the tree is part of it or imports it."""
    _, tree = _definitions("base")
    assert not [name for name, source in tree.files.items() if "nodewire" in name or "nodewire" in source]
