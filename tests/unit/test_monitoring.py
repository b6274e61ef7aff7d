"""The dashboard, the alert rules and the page about them name series and labels that a scrape has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from cloister.api.metrics.document import render
from cloister.api.metrics.series import SERIES

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "cloister.json"
ALERTS = ROOT / "deploy" / "prometheus" / "cloister-alerts.yml"
PAGE = ROOT / "docs" / "howto" / "monitoring.md"
FROM_SCRAPER = {"instance", "job"}
"""Labels that Prometheus adds to each series."""
LABELS = {name: {*series.labels, *FROM_SCRAPER} for series in SERIES for name in series.sample_names} | {"up": FROM_SCRAPER}
LABELS |= {name: {*labels, "le"} for name, labels in LABELS.items() if name.endswith("_bucket")}
GRAFANA = {"$__rate_interval": "5m", "$instance": "one"}
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)")


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[tuple[str, str, str]]:
    """Name, PromQL expression and text with labels of each alert and each query of the dashboard."""
    for rule in rules():
        yield rule["alert"], rule["expr"], rule["annotations"]["summary"].replace("$value", "")
    board = json.loads(DASHBOARD.read_text())
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"], note["titleFormat"]
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def walk(node: Any) -> Iterator[Any]:
    """All parts of a parsed expression."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if getattr(node, name, None) is not None:
            yield from walk(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from walk(argument)


@pytest.mark.parametrize(("name", "expression", "text"), list(expressions()))
def test_an_expression_is_about_series_that_exist(name: str, expression: str, text: str) -> None:
    """It is PromQL, selects declared series by their labels, groups by labels that these have, and shows no others."""
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    parts = list(walk(promql_parser.parse(expression)))
    selectors = [part for part in parts if isinstance(part, promql_parser.VectorSelector)]
    assert selectors, name
    for selector in selectors:
        assert selector.name in LABELS, f"{name}: {selector.name}"
        assert {one.name for one in selector.matchers.matchers} <= LABELS[str(selector.name)], f"{name}: {selector.matchers}"
    known = set.union(*(LABELS[str(selector.name)] for selector in selectors))
    for part in parts:
        modifier = getattr(part, "modifier", None)
        grouped = [] if modifier is None else getattr(modifier, "labels", None) or getattr(modifier.matching, "labels", [])
        assert set(grouped) <= known, f"{name}: {grouped}"
    assert set(_SHOWN.findall(text)) <= known, f"{name}: {text}"


def test_each_series_is_on_the_dashboard_or_in_an_alert() -> None:
    """Each series is shown somewhere."""
    used = " ".join(expression for _, expression, _ in expressions())
    unused = {series.name for series in SERIES if not re.search(rf"\b{series.name}(_bucket)?\b", used)}
    assert unused <= {"cloister_refused_for_memory_total", "cloister_network_egress_unrecorded_total"}


def test_the_page_describes_each_series_and_alert() -> None:
    """Its generated part is that of the table of series, and it has a row for each alert and for no other."""
    page = PAGE.read_text()
    assert page == render(page), "run `make docs`"
    assert re.findall(r"(?m)^\| `(Cloister\w+)` \|", page) == [rule["alert"] for rule in rules()]
