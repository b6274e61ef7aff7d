"""The stock definitions themselves, and what they are read into."""

from __future__ import annotations

import re

import pytest

from cloister.errors import TemplateNotFoundError
from cloister.template.agenttree import _definitions
from cloister.template.stock import STOCK_NAMES, load_stock

PYTHON = {
    "numpy", "pandas", "scipy", "matplotlib", "seaborn", "scikit-learn", "plotly", "bokeh", "sympy", "pillow", "requests",
    "httpx", "beautifulsoup4", "openpyxl", "python-docx", "pytest", "xarray", "numba", "scikit-image", "opencv-python-headless",
    "networkx", "orjson", "ipykernel", "e2b_charts",
}  # fmt: skip


def test_every_stock_template_loads_and_stands_on_an_earlier_one() -> None:
    """All definitions parse, parents come first, and a stack stays below ten layers."""
    seen: dict[str, int] = {}
    for name in STOCK_NAMES:
        definition = load_stock(name)
        assert definition.name == name
        seen[name] = len(definition.steps) + (seen[definition.parent] if definition.parent else 0)
        assert seen[name] <= 10


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The error says which stock templates there are."""
    with pytest.raises(TemplateNotFoundError, match="code-interpreter-v1"):
        load_stock("nope")


def test_every_promised_python_package_is_pinned() -> None:
    """Each package that users may count on is installed, at a version fixed by the constraints."""
    step = next(step for step in load_stock("code-interpreter-v1").steps if step.name == "python")
    wanted = {line for line in step.files["requirements.txt"].splitlines() if not line.startswith("#")}
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in step.files["constraints.txt"].splitlines() if "==" in line}
    assert wanted >= PYTHON
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned


def test_kernel_sources_are_part_of_the_layer_that_builds_them() -> None:
    """The Java and R drivers travel into their step, so a change of them changes the layer's key."""
    step = next(step for step in load_stock("code-interpreter-v1").steps if step.name == "kernels")
    assert {"drivers/java/build.sh", "drivers/java/Kernel.java", "drivers/r/build.sh"} <= set(step.files)


def test_the_agent_tree_holds_what_crosses_the_border_and_no_more() -> None:
    """Of our own code only the agent, the protocol and the errors go inside, drivers apart from the package."""
    _, tree = _definitions()
    packages = {name.split("/")[2] for name in tree.files if name.startswith("site/cloister/")}
    assert packages == {"__init__.py", "errors.py", "protocol", "agent"}
    assert "drivers/python.py" in tree.files
    unwanted = ("site/cloister/agent/drivers/", "node_modules", "__pycache__")
    assert not [name for name in tree.files if any(part in name for part in unwanted)]
