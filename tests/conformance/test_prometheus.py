"""The configuration, the alert rules and the dashboard's queries, each with the real Prometheus on a real server."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2b_code_interpreter import Sandbox

from framework.server import Server, free_port
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".proxies" / "usr" / "bin"
ALERTS = ROOT / "deploy" / "prometheus" / "cloister-alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "cloister.json"
PAGE = ROOT / "docs" / "howto" / "monitoring.md"


@pytest.fixture(scope="module")
def config(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lines of the page for prometheus.yml, with this server's address, key and files, and short intervals."""
    directory = tmp_path_factory.mktemp("prometheus")
    (directory / "key").write_text(server.cli("key", "create", "--metrics", "prometheus").stdout)
    page = PAGE.read_text()
    block = textwrap.dedent(page[page.index("    rule_files:") : page.index("With a domain and TLS")])
    block = block.replace("/etc/prometheus/cloister-alerts.yml", str(ALERTS)).replace("/etc/prometheus/cloister.key", str(directory / "key"))
    document = yaml.safe_load(block.replace("127.0.0.1:3000", server.url.removeprefix("http://")))
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(document))
    return directory / "prometheus.yml"


@pytest.fixture(scope="module")
def prometheus(config: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes the server."""
    port = free_port()
    words = [f"--config.file={config}", f"--storage.tsdb.path={config.parent}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (config.parent / "log").open("wb") as log, subprocess.Popen([PROGRAMS / "prometheus", *words], stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _answers(f"http://127.0.0.1:{port}/-/ready"), timeout_s=60)
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _get(prometheus: str, path: str, **query: str) -> Any:
    answer = httpx.get(f"{prometheus}/{path}", params=query, timeout=30).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def test_promtool_takes_the_files(config: Path) -> None:
    """The rules and the configuration of the page are free of faults."""
    for words in (("check", "rules", str(ALERTS)), ("check", "config", str(config))):
        done = subprocess.run([PROGRAMS / "promtool", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_and_evaluates(server: Server, prometheus: str) -> None:
    """The target is up, a sandbox is a sample, and every rule is evaluated without an error."""
    eventually(lambda: [one["health"] for one in _get(prometheus, "targets")["activeTargets"]] == ["up"], timeout_s=60)
    sandbox = Sandbox.create("base", timeout=120, **server.sdk)
    try:
        eventually(lambda: float(_get(prometheus, "query", query="cloister_sandboxes")["result"][0]["value"][1]) >= 1, timeout_s=60)
    finally:
        sandbox.kill()

    def rules() -> list[dict[str, Any]]:
        return [rule for group in _get(prometheus, "rules")["groups"] for rule in group["rules"]]

    eventually(lambda: all(rule["health"] == "ok" for rule in rules()), timeout_s=60)
    assert len(rules()) == ALERTS.read_text().count("- alert:")


def test_prometheus_answers_each_query_of_the_dashboard(prometheus: str) -> None:
    """None is an error of PromQL."""
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    for query in queries:
        _get(prometheus, "query", query=query.replace("$__rate_interval", "5m").replace("$instance", "one"))
    assert len(queries) > 20
