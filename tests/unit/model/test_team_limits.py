"""Limits of teams, as requests and commands give them."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.team import TeamLimits


@pytest.mark.parametrize("value", [-1, 10**400, float("inf"), float("nan"), 1.5, True, "7", [7]])
def test_a_limit_out_of_its_range_is_refused(value: object) -> None:
    """Whatever JSON has, the error names the limit."""
    with pytest.raises(InvalidRequestError, match="limit sandboxes"):
        TeamLimits().changed({"sandboxes": value})


def test_a_limit_is_set_and_taken_away() -> None:
    """Numbers without a fraction are whole."""
    limits = TeamLimits().changed({"sandboxes": 7.0, "cpu_count": 1.5})
    assert limits == TeamLimits(sandboxes=7, cpu_count=1.5)
    assert limits.changed({"sandboxes": None}) == TeamLimits(cpu_count=1.5)
