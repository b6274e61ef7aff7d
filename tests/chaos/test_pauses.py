"""Pauses and resumes with kill -9 of supervisor and api process at random moments: no byte and no sandbox is lost (I8)."""

from __future__ import annotations

import random

import pytest
from bench import pauses
from bench.keeper import Keeper

from framework.server import running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

CYCLES = 60


@pytest.mark.timeout(420)
def test_pauses_lose_nothing_when_processes_die(stock_templates: None) -> None:
    """After 60 pauses and resumes of all kinds, memory and files have every byte, every sandbox is there, and the census is empty."""
    plan = pauses.Plan(cycles=CYCLES, at_once=3, seed=random.randrange(1 << 31), limit_s=300, kill_every_s=2.0)
    with running_server() as server:
        outcome = pauses.pauses(server, plan, print)
    print(f"seed {plan.seed}: {outcome}")
    assert not outcome.findings
    assert outcome.cycles == CYCLES
    assert outcome.kills.total() > 0


def test_a_lost_byte_is_noticed() -> None:
    """The twin's digests differ from those of a sandbox that missed one turn, in memory or in the file."""
    for missed in ("memory", "file"):
        twin, other = Keeper(None), Keeper(None)
        assert twin.take(1, 1) == other.take(1, 1)
        data = getattr(other, missed)
        data[len(data) // 2] ^= 1
        assert twin.take(1, 1) != other.take(1, 1)
