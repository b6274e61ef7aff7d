"""A scrape of a real server shows what clients did."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from e2b_code_interpreter import Sandbox
from prometheus_client.parser import text_string_to_metric_families

from cloister.api.metrics.series import SERIES
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
Values = dict[tuple[str, ...], float]


@pytest.fixture
def scrape(server: Server) -> Callable[[], Values]:
    """A function that reads the samples: their values by name and values of labels, in the alphabetical order of the labels."""
    key = server.cli("key", "create", "--metrics", "test").stdout.strip()

    def read() -> Values:
        text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
        families = text_string_to_metric_families(text)
        return {(one.name, *(one.labels[name] for name in sorted(one.labels))): one.value for family in families for one in family.samples}

    return read


def test_a_scrape_has_what_clients_did(server: Server, scrape: Callable[[], Values]) -> None:
    """A creation, a run and a kill are counted where the page says it, and only declared series are there."""
    before = scrape()
    box = Sandbox.create(timeout=60, **server.sdk)
    assert box.run_code("1 + 1").text == "2"
    try:
        running = scrape()
        assert running["cloister_sandboxes_by_team", "running", "default"] >= 1
        assert running["cloister_sandboxes_by_template", "running", "code-interpreter-v1"] >= 1
    finally:
        box.kill()

    def grown(*key: str) -> float:
        return scrape().get(key, 0) - before.get(key, 0)

    assert grown("cloister_requests_total", "POST", "/v2/sandboxes", "2xx") >= 1
    assert grown("cloister_request_seconds_count", "POST", "/v2/sandboxes") >= 1
    assert grown("cloister_first_answer_seconds_count") >= 1
    assert grown("cloister_traffic_requests_total", "2xx", "interpreter") >= 1
    eventually(lambda: grown("cloister_runs_total", "python", "ok") >= 1)
    eventually(lambda: grown("cloister_ends_total", "killed") >= 1)
    now = scrape()
    counted = [sum(value for key, value in found.items() if key[0] == "cloister_creation_seconds_count") for found in (before, now)]
    assert counted[1] > counted[0]
    assert {key[0] for key in now} <= {name for series in SERIES for name in series.sample_names}
    for process in ("api", "supervisor", "launcher"):
        assert 3 < now["cloister_process_open_descriptors", process] < now["cloister_process_max_descriptors", process]
