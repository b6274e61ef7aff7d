"""The simulated cluster of the benchmark: it places what fits, and survives the loss of nodes."""

from __future__ import annotations

from bench.cluster_placement import Simulation, simulate


def test_a_simulated_cluster_places_all_that_fits() -> None:
    """Also after a loss of a tenth of the nodes, where the others have room; the same seed gives the same result."""
    small = Simulation(nodes=20, sandboxes=400, processes=4, unheard=50, fill=0.7)
    filled, lost = simulate(small, loses=0.1)
    assert (filled.creations, filled.failures, len(filled.loads)) == (400, 0, 20)
    assert (lost.creations, lost.failures, len(lost.loads)) == (lost.lost, 0, 18)
    assert max(filled.loads) <= 1.0
    assert simulate(small, loses=0.1)[0].loads == filled.loads


def test_placement_spreads_better_than_chance() -> None:
    """With fresh data, compared with random nodes."""
    ours, chance = (simulate(Simulation(nodes=20, sandboxes=400, processes=4, unheard=10, choices=one))[0] for one in (None, 1))
    assert ours.spread[3] < chance.spread[3]
