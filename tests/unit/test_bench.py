"""The benchmark's arithmetic: percentiles, verdicts, ratios, and how a load is shared out. No server, no clock."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
from bench import document, load, progress
from bench.churn import grown
from bench.machine import Load
from bench.rows import Budget, Row, compare, latency_row
from bench.serverside import Holdings
from bench.stats import percentile, ratio, summarise

HELD = Holdings(20, 5, 50.0, 20, 5, 50.0, 0, 4, 2, 3, 8)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1, 100), (0.07, 7), (0.001, 1)])
def test_percentiles_of_a_hundred(share: float, expected: float) -> None:
    """The nearest rank of 1 to 100 is the share itself, in any order of the samples."""
    assert percentile(reversed(range(1, 101)), share) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 99, 100, 101])
def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed(count: int) -> None:
    """By definition: at least the share of samples is not above it, and of all smaller samples that is not so."""
    values = [float(n * n % 101) for n in range(1, count + 1)]
    for share in (0.05, 0.5, 0.9, 0.95, 0.99, 1):
        found = percentile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * count - 1e-9
        assert sum(value < found for value in values) < share * count


def test_the_median_of_an_odd_number_is_the_middle() -> None:
    """It agrees with the standard library's."""
    values = [5.0, 1.0, 9.0, 3.0, 7.0]
    assert percentile(values, 0.5) == statistics.median(values)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1], 0), ([1], 1.1), ([1], 95)])
def test_what_is_no_percentile_is_refused(values: list[float], share: float) -> None:
    """No samples, or a share that is none."""
    with pytest.raises(ValueError, match=r"samples|not in"):
        percentile(values, share)


def test_a_summary_tells_how_many_samples_there_were() -> None:
    """So that a p99 of few can be seen for the maximum that it is."""
    assert summarise([3, 1, 2]) == {"p50_ms": 2, "p95_ms": 3, "p99_ms": 3, "max_ms": 3, "n": 3}
    assert summarise([]) == {}
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None


@pytest.mark.parametrize(
    ("at_least", "value", "reached"), [(False, 25, True), (False, 25.1, False), (True, 60, True), (True, 59.9, False), (True, 200, True)]
)
def test_budgets_know_which_side_is_good(at_least: bool, value: float, reached: bool) -> None:
    """Times must stay below, rates above."""
    budget = Budget("ours.x", "value", 60 if at_least else 25, at_least=at_least)
    assert budget.judge(value)[0] is reached
    assert ("yes" in budget.describe(value)) is reached


def test_every_row_is_compared_with_what_was_measured() -> None:
    """Ratios are of medians of the same run; a peer that could not run is not compared with."""
    rows = [
        latency_row("sequential", "ours.warm_sdk", "warm", [4, 4, 4]),
        latency_row("floors", "floor.ipykernel_warm", "ipykernel", [8, 8, 100]),
        Row("peers", "peer.jupyter_warm", "Jupyter", reason="it does not start"),
    ]
    assert [(ours.key, other.key, factor) for ours, other, factor in compare(rows)] == [("ours.warm_sdk", "floor.ipykernel_warm", 0.5)]


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (3, 3), (4, 4), (64, 4), (101, 4)])
def test_a_load_is_shared_out_completely(count: int, processes: int) -> None:
    """Each offset and each worker is in exactly one client process, and none has nothing to do."""
    offsets = tuple(number * 0.2 for number in range(count))
    jobs = load.Load("raw", "code", offsets).jobs()
    assert len(jobs) == processes
    assert sorted(offset for job in jobs for offset in job["offsets"]) == list(offsets)
    workers = [job["workers"] for job in load.Load("raw", "code", workers=count).jobs()]
    assert sum(workers) == count
    assert min(workers) > 0


def test_failures_count_against_the_success_rate() -> None:
    """All tries are the whole, those with an answer the part."""
    outcome = load.Outcome(samples={"total": [1.0, 2.0, 3.0]}, tried=4, wall_s=2)
    assert outcome.numbers()["success_percent"] == 75
    assert load.Outcome().numbers()["success_percent"] == 0


def test_a_step_that_fails_is_a_row_with_the_reason() -> None:
    """And the steps after it are done."""

    def fail() -> list[Row]:
        raise RuntimeError("the peer fell over")

    def hang() -> list[Row]:
        while True:
            pass

    good = Row("floors", "floor.x", "good", {"n": 1})
    made = [progress.Step("peers", "bad", 1, 5, fail), progress.Step("peers", "endless", 1, 0.05, hang)]
    shown: list[str] = []
    rows = progress.run_steps([*made, progress.Step("floors", "good", 1, 5, lambda: [good])], shown.append)
    assert [row.reason for row in rows] == ["RuntimeError: the peer fell over", "TimeoutError: took longer than its bound of 0 s", ""]
    assert shown[0].startswith("[ 1/3] 0:00  peers: bad (about 0:03 left)")


def test_a_report_has_a_table_for_each_section_and_says_what_was_not_measured() -> None:
    """Markdown for readers, JSON for programs, the reason in both, and a warning about a busy machine."""
    rows = [
        latency_row("sequential", "ours.warm_sdk", "warm run", [5.0] * 100),
        Row("peers", "peer.runsc", "runsc", reason="a | pipe"),
        Row("density", "ours.idle_10", "10 idle", {"mib_each": 7.5, "answering": 10}),
    ]
    machine: dict[str, object] = {
        "processor": "x", "cores": 2, "memory_gib": 4, "kernel": "6", "system": "Debian", "commit": "abc", "python": "3",
    }  # fmt: skip
    report = document.Report("today", 60, {"size": "quick"}, machine, Load(0.1, 2), Load(5, 90), rows)
    text = document.render(report, None)
    assert "| warm run" in text
    assert "p50 ≤ 4: **no**, 1.25 of it; p99 ≤ 12: yes, 0.42 of it" in text
    assert "**not measured:** a \\| pipe" in text
    assert "7.5 MiB each" in text
    assert "busy after the run: 90 %" in text
    told = json.loads(json.dumps(report.as_json()))
    assert [verdict["reached"] for verdict in told["rows"][0]["budgets"]] == [False, True]
    assert told["rows"][1]["reason"] == "a | pipe"


@pytest.mark.parametrize("name", ["mounts", "network_namespaces", "loop_devices", "control_groups", "processes"])
def test_one_kernel_object_more_is_a_leak(name: str) -> None:
    """Of these a server that holds no sandbox has as many as before."""
    after = replace(HELD, **{name: int(HELD.as_dict()[name]) + 1})
    assert [text.split(":")[0] for text in grown(HELD, after, 10_000)] == [name]
    assert not grown(after, HELD, 10_000)


def test_memory_and_descriptors_may_breathe() -> None:
    """A little more is none; much more is a leak."""
    assert not grown(HELD, replace(HELD, supervisor_fds=23, api_rss_mib=90.0), 100)
    assert len(grown(HELD, replace(HELD, supervisor_fds=40, api_rss_mib=150.0), 100)) == 2
