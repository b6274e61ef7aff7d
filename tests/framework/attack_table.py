"""The table of attacks, which a run of the tests writes: ``pytest tests/security -m every_tier --write-attack-table docs/attacks``.

A row is a test marked ``every_tier``, without its tier; the mark's arguments say what holds the attack off. Results are what the tests
recorded as the property ``result``, else that the attack was held off. With ``--collect-only`` the table has no results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["EVERY_TIER", "TIERS", "AttackTable", "held_by"]

EVERY_TIER = "every_tier"
TIERS = ("forked", "cold", "gvisor")
_OTHERS = "others"
_OWN_PAGE = 20
"""A test function with so many attacks has a page of its own."""
_LONGEST = 70
_HEAD = ("attack", *TIERS, "namespace: held by", "gvisor: held by")
_ABOUT = "<!-- written by a run of the tests: ../attacks.md -->"


def held_by(*, namespace: str, gvisor: str) -> pytest.MarkDecorator:
    """The mark of an attack that runs on every tier."""
    mark: pytest.MarkDecorator = getattr(pytest.mark, EVERY_TIER)
    return mark(namespace=namespace, gvisor=gvisor)


@dataclass
class _Row:
    """One attack. ``results`` are by tier."""

    attack: str
    held: tuple[str, str]
    results: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        cells = (self.attack, *(self.results.get(tier, "-") for tier in TIERS), *self.held)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


class AttackTable:
    """A plugin that gathers rows from a run, and writes a page for each large test, and one for the others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rows: dict[tuple[str, str], _Row] = {}
        self._places: dict[str, tuple[tuple[str, str], str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """A row for each attack."""
        for item in session.items:
            mark = item.get_closest_marker(EVERY_TIER)
            params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            if mark is None or "server_tier" not in params or not isinstance(item, pytest.Function):
                continue
            attack = ": ".join(_words(params)) or item.originalname.removeprefix("test_").replace("_", " ")
            key = item.originalname, attack
            self._rows.setdefault(key, _Row(attack, (mark.kwargs["namespace"], mark.kwargs["gvisor"])))
            self._places[item.nodeid] = key, str(params["server_tier"])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The result of a test."""
        if report.nodeid in self._places and (report.when == "call" or not report.passed):
            key, tier = self._places[report.nodeid]
            result = str(dict(report.user_properties).get("result", "held off"))
            self._rows[key].results[tier] = result if report.passed else "not shown" if report.skipped else "FAILED"

    def pytest_sessionfinish(self) -> None:
        """Write the pages."""
        self._directory.mkdir(parents=True, exist_ok=True)
        pages: dict[str, list[str]] = {}
        for function in dict.fromkeys(function for function, _ in self._rows):
            rows = [row for (name, _), row in self._rows.items() if name == function]
            page = function.removeprefix("test_").replace("_", "-") if len(rows) >= _OWN_PAGE else _OTHERS
            title = function.removeprefix("test_").replace("_", " ")
            head = [_ABOUT, "", *(["# Other attacks", ""] if page == _OTHERS else [])]
            pages.setdefault(page, head).extend(_section(title[0].upper() + title[1:], rows, alone=page != _OTHERS))
        for page, lines in pages.items():
            (self._directory / f"{page}.md").write_text("\n".join(lines).rstrip() + "\n")


def _section(title: str, rows: list[_Row], *, alone: bool) -> Iterator[str]:
    yield f"{'#' if alone else '##'} {title}"
    yield ""
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{' --- |' * len(_HEAD)}"
    yield from (row.line() for row in rows)
    yield ""


def _words(params: dict[str, object]) -> list[str]:
    """The name of an attack, or its parameters as text: they distinguish it from the others of its test."""
    values = [getattr(value, "name", None) or str(value) for name, value in params.items() if name != "server_tier"]
    return [" ".join(value.split())[:_LONGEST] for value in values]
