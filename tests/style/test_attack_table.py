"""The committed table of attacks (docs/attacks) has the attacks that pytest collects, and a result of each on every tier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from framework.attack_table import TIERS

from .sources import ROOT

_DOCS = ROOT / "docs" / "attacks"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table without results, as pytest writes it when it only collects."""
    directory = tmp_path_factory.mktemp("attacks")
    words = ["-q", "-p", "no:cacheprovider", "--collect-only", "-m", "every_tier", "--write-attack-table", str(directory), "tests/security"]
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return directory


def _rows(directory: Path) -> dict[str, list[tuple[str, ...]]]:
    """The cells of each page's lines; a result is no part of what is compared."""
    found = {}
    for path in directory.glob("*.md"):
        rows = [tuple(line.split(" | ")) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        found[path.name] = [(row[0], *row[1 + len(TIERS) :]) for row in rows]
    return found


def test_table_of_attacks_is_that_of_the_tests(collected: Path) -> None:
    """Each attack has a row, and each row an attack. If not: run the attacks as docs/attacks.md says."""
    expected, written = _rows(collected), _rows(_DOCS)
    assert expected.keys() == written.keys()
    for page in expected:
        assert set(written[page]) == set(expected[page]), page
    assert sum(map(len, expected.values())) > 150


def test_every_attack_of_the_table_was_held_off() -> None:
    """No cell is empty or says that an attack was done."""
    for path in _DOCS.glob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            cells = line.split(" | ")
            if line.startswith("|") and len(cells) > len(TIERS) and not line.startswith(("| attack", "| ---")):
                assert not {"-", "FAILED", "not shown"} & set(cells[1 : 1 + len(TIERS)]), f"{path.name}: {line}"
