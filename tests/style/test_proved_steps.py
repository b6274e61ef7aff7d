"""The proofs of hardening steps: what prove.py takes away is still there, and the inventory of /proc is in order."""

from __future__ import annotations

import pytest

from framework.inventory import CLASSES, read_inventory
from framework.proved_step import Step, all_steps

from .sources import ROOT

_STEPS = all_steps()


@pytest.mark.parametrize("step", _STEPS, ids=lambda step: step.name)
def test_what_a_step_takes_away_is_there(step: Step) -> None:
    """Each text that a step replaces is in its file, and is replaced by another."""
    for file, old, new in ((step.file, step.old, step.new), *step.also):
        assert old in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not hold {old!r} any more"
        assert old != new


def test_names_of_steps_differ() -> None:
    """A step is chosen by its name, so no two have the same."""
    names = [step.name for step in _STEPS]
    assert len(names) == len(set(names))


def test_inventory_is_in_order() -> None:
    """Lines are sorted, patterns differ, classes are known, and each says why."""
    entries = read_inventory()
    patterns = [entry.pattern for entry in entries]
    assert patterns == sorted(set(patterns))
    assert {entry.kind for entry in entries} == set(CLASSES)
    assert all(entry.reason for entry in entries)
