"""Metrics and logs of real sandboxes, by the official SDKs and the official command line client."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, SandboxMetrics, SandboxNotFoundException
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server
from framework.waiting import eventually

JS = Path(__file__).parent / "js"
pytestmark = [pytest.mark.root, pytest.mark.templates]
needs_js = pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)


@pytest.fixture(scope="module")
def quick(stock_templates: None) -> Iterator[Server]:
    """A server that samples twice a second."""
    with running_server("--metrics-interval-s", "0.5") as running:
        yield running


@pytest.fixture
def sandbox(quick: Server) -> Iterator[Sandbox]:
    """A sandbox of it."""
    made = Sandbox.create(timeout=120, **quick.sdk)
    yield made
    made.kill()


def api(server: Server, path: str, **query: Any) -> httpx.Response:
    """A request by hand."""
    return httpx.get(server.url + path, params=query, headers={"X-API-KEY": server.api_key})


def logs(server: Server, sandbox_id: str, **query: Any) -> list[dict[str, Any]]:
    """The second version's entries."""
    answer = api(server, f"/v2/sandboxes/{sandbox_id}/logs", **query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["logs"]
    return found


def js(server: Server, *command: str) -> str:
    """A command in the directory of the JavaScript packages."""
    done = subprocess.run(
        command,
        cwd=JS,
        env={**os.environ, **server.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_seen_s(sandbox: Sandbox) -> float:
    """Processor time that all samples together tell of, in seconds."""
    samples = sandbox.get_metrics()
    steps = itertools.pairwise(samples)
    seen: float = sum((later.timestamp - earlier.timestamp).total_seconds() * later.cpu_used_pct / 100 for earlier, later in steps)
    return seen


def resting(sandbox: Sandbox) -> list[SandboxMetrics]:
    """The samples, once the last one shows a sandbox that does next to nothing; empty until then."""
    samples = sandbox.get_metrics()
    return samples if samples[-1].cpu_used_pct < 50 else []


def test_metrics_follow_what_a_program_does(sandbox: Sandbox) -> None:
    """A sample is there at once; work, memory and files show in the samples after them, as far as they can be told exactly."""
    (first, *_) = sandbox.get_metrics()
    assert (first.cpu_count, first.mem_total) == (2, 2048 << 20)
    assert 0 < first.mem_used < first.mem_total
    assert 0 < first.disk_used < first.disk_total <= 5120 << 20
    sandbox.run_code("kept = bytearray(200 << 20)\nopen('/home/user/file', 'wb').write(bytes(100 << 20))\n")
    sandbox.run_code("import time\nend = time.process_time() + 2\nwhile time.process_time() < end: pass")
    eventually(lambda: cpu_seen_s(sandbox) > 1.8)  # a busy host gives the loop less than a processor
    samples = eventually(lambda: resting(sandbox))
    assert len(samples) >= 4
    assert max(sample.cpu_used_pct for sample in samples) < 205
    assert cpu_seen_s(sandbox) < 6
    assert samples[-1].mem_used - first.mem_used > 190 << 20
    assert samples[-1].disk_used - first.disk_used == pytest.approx(100 << 20, rel=0.02)
    inside = sandbox.run_code("import os; s = os.statvfs('/'); print((s.f_blocks - s.f_bfree) * s.f_frsize, s.f_blocks * s.f_frsize)")
    assert [int(word) for word in inside.logs.stdout[0].split()] == pytest.approx(
        [samples[-1].disk_used, samples[-1].disk_total], rel=0.001
    )
    sandbox.run_code("import os; os.remove('/home/user/file')")
    eventually(lambda: sandbox.get_metrics()[-1].disk_used < 10 << 20)  # a file that is gone uses nothing


def test_metrics_honour_the_range(sandbox: Sandbox) -> None:
    """Start and end choose samples; a range without any is empty; one that ends before it begins is refused."""
    time.sleep(2.5)
    samples = sandbox.get_metrics()
    assert [sample.timestamp for sample in samples] == sorted({sample.timestamp for sample in samples})
    later = sandbox.get_metrics(start=samples[2].timestamp + dt.timedelta(seconds=1))
    assert 0 < len(later) < len(samples)
    earlier = sandbox.get_metrics(end=samples[0].timestamp)
    assert samples[0].timestamp in [sample.timestamp for sample in earlier]
    assert len(earlier) < len(samples)
    now = dt.datetime.now(dt.UTC)
    assert sandbox.get_metrics(start=now + dt.timedelta(minutes=1)) == []
    assert sandbox.get_metrics(end=now - dt.timedelta(hours=1)) == []


def test_metrics_of_none_and_of_many(quick: Server, sandbox: Sandbox) -> None:
    """An unknown sandbox is not found, as is one that ended; many are answered for those that live."""
    ended = Sandbox.create(timeout=60, **quick.sdk)
    ended.kill()
    with pytest.raises(SandboxNotFoundException):
        ended.get_metrics()
    answer = api(quick, "/sandboxes/metrics", sandbox_ids=f"{sandbox.sandbox_id},{ended.sandbox_id}").json()
    assert list(answer["sandboxes"]) == [sandbox.sandbox_id]
    assert answer["sandboxes"][sandbox.sandbox_id]["memTotal"] == 2048 << 20
    for path, query in (
        ("/sandboxes/metrics", {}),
        (f"/sandboxes/{sandbox.sandbox_id}/metrics", {"start": "soon"}),
        (f"/sandboxes/{sandbox.sandbox_id}/metrics", {"start": "20", "end": "10"}),
    ):
        assert api(quick, path, **query).status_code == 400


async def test_metrics_by_the_asynchronous_sdk(quick: Server) -> None:
    """The asynchronous Python SDK reads the same."""
    made = await AsyncSandbox.create(timeout=60, **quick.sdk)
    try:
        (metric, *_) = await made.get_metrics()
        assert metric.mem_total == 1024 << 20, "the base template's limit"
    finally:
        await made.kill()
    with pytest.raises(SandboxNotFoundException):
        await made.get_metrics()


@needs_js
def test_metrics_by_the_javascript_sdk(quick: Server) -> None:
    """The JavaScript SDK gets every field in its type."""
    seen = json.loads(js(quick, "node", "observe.mjs"))
    numbers = ("cpuCount", "cpuUsedPct", "memUsed", "memTotal", "memCache", "diskUsed", "diskTotal")
    assert seen["types"] == {"timestamp": "Date", **dict.fromkeys(numbers, "number")}
    assert seen["age"] < 10_000
    assert (seen["future"], seen["gone"]) == (0, "SandboxNotFoundError")


def test_log_tells_the_life_of_a_sandbox(quick: Server) -> None:
    """Created, runs with their cost, a kernel's death, a limit met, and the end, each by whoever knows it, in order, and kept after it."""
    sandbox = Sandbox.create(timeout=120, **quick.sdk)
    access_token = api(quick, f"/sandboxes/{sandbox.sandbox_id}").json()["envdAccessToken"]
    sandbox.run_code("secret = 'hunter2'; print(secret)", envs={"PASSWORD": "hunter2"})
    sandbox.run_code("raise ValueError('hunter2')")
    sandbox.run_code("import os; os._exit(7)")
    sandbox.run_code("x = bytearray(4 << 30)")
    time.sleep(1.2)
    sandbox.kill()
    entries = logs(quick, sandbox.sandbox_id)
    told = [(entry["fields"]["logger"], entry["fields"]["event"], entry["level"]) for entry in entries]
    runs = ("agent", "execution.ended", "info")
    assert [one for one in told if one[0] != "node"] == [
        ("api", "sandbox.created", "info"),
        *(runs, runs, runs),
        ("agent", "kernel.died", "error"),
        runs,
        ("agent", "kernel.died", "error"),
        ("api", "sandbox.ended", "info"),
    ]
    assert ("node", "memory.exhausted", "error") in told
    fields = [entry["fields"] for entry in entries]
    assert [one["outcome"] for one in fields if one["event"] == "execution.ended"] == ["ok", "error", "kernel_died", "kernel_died"]
    assert [one["cause"] for one in fields if one["event"] == "kernel.died"] == ["exit", "out_of_memory"]
    assert int(next(one for one in fields if one["event"] == "execution.ended")["peak_mem_bytes"]) > 1 << 20
    assert fields[-1]["reason"] == "killed"
    times = [entry["timestamp"] for entry in entries]
    assert times == sorted(set(times))
    everything = json.dumps(entries)
    for secret in ("hunter2", "ValueError", "bytearray", quick.api_key, access_token):
        assert secret not in everything


def refused(server: Server, sandbox_id: str, wanted: int) -> list[dict[str, str]]:
    """The fields of what the log has of refusals, as soon as there are so many."""
    deadline = time.monotonic() + 5
    while True:
        fields = [entry["fields"] for entry in logs(server, sandbox_id) if entry["fields"]["event"].startswith("network.")]
        if len(fields) >= wanted or time.monotonic() > deadline:
            return fields
        time.sleep(0.2)


def connects(*targets: tuple[str, int]) -> str:
    """A program that tries each and must fail."""
    return f"""
import socket
for target in {targets!r}:
    try:
        socket.create_connection(target, 1).close()
        raise AssertionError(target)
    except OSError:
        pass
"""


def test_log_tells_what_the_network_refused(quick: Server, sandbox: Sandbox) -> None:
    """Metadata, private and host addresses are in the log of the sandbox that tried them, within two intervals, and in no other's."""
    neighbour = Sandbox.create(timeout=60, **quick.sdk)
    assert sandbox.run_code(connects(("169.254.169.254", 80), ("10.0.0.1", 5432), ("10.0.0.1", 5432))).error is None
    began = time.monotonic()
    found = refused(quick, sandbox.sandbox_id, 2)
    assert time.monotonic() - began < 10
    constant = {"logger": "node", "event": "network.refused", "protocol": "tcp", "reason": "not_public"}
    assert sorted(found, key=str) == sorted(
        [
            {**constant, "destination": "169.254.169.254", "port": "80", "count": "1"},
            {**constant, "destination": "10.0.0.1", "port": "5432", "count": "2"},
        ],
        key=str,
    )
    assert sandbox.run_code(connects(("169.254.169.254", 80))).error is None
    time.sleep(1.2)
    assert len(refused(quick, sandbox.sandbox_id, 0)) == 2, "the same target is told once a minute"
    assert refused(quick, neighbour.sandbox_id, 0) == []
    neighbour.kill()
    sandbox.kill()
    ended = refused(quick, sandbox.sandbox_id, 3)
    assert (ended[-1]["destination"], ended[-1]["count"]) == ("169.254.169.254", "1"), "what was untold is told at the end"


def test_log_tells_what_was_tried_without_internet(quick: Server) -> None:
    """With the internet off every address is refused, and the resolver; a sandbox that tries nothing has no such line."""
    sandbox = Sandbox.create(timeout=60, allow_internet_access=False, **quick.sdk)
    time.sleep(1.2)
    assert refused(quick, sandbox.sandbox_id, 0) == []
    assert sandbox.run_code(connects(("203.0.113.7", 443), ("example.com", 80))).error is None
    found = refused(quick, sandbox.sandbox_id, 2)
    told = {(one["destination"], one["protocol"], one["port"], one["reason"]) for one in found}
    assert ("203.0.113.7", "tcp", "443", "no_internet") in told
    assert [one["protocol"] for one in found if one["port"] == "53"] == ["udp"]
    assert {one["reason"] for one in found} == {"no_internet"}
    sandbox.kill()


def test_log_in_pages(quick: Server, sandbox: Sandbox) -> None:
    """Pages in both directions neither overlap nor leave gaps; level and search choose entries; nonsense is refused."""
    for number in range(10):
        sandbox.run_code("1/0" if number % 2 else "1")
    whole = logs(quick, sandbox.sandbox_id)
    assert len(whole) == 11

    def at_ms(entry: dict[str, Any]) -> int:
        return round(dt.datetime.fromisoformat(entry["timestamp"]).timestamp() * 1000)

    for direction, expected in (("forward", whole), ("backward", whole[::-1])):
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {}
        while page := logs(quick, sandbox.sandbox_id, limit=3, direction=direction, **query):
            found += page
            query = {"cursor": at_ms(page[-1]) + (direction == "forward")}
        assert found == expected
    assert len(logs(quick, sandbox.sandbox_id, search="outcome=error")) == 5
    assert logs(quick, sandbox.sandbox_id, search="OUTCOME") == []
    assert logs(quick, sandbox.sandbox_id, level="warn") == []
    assert logs(quick, sandbox.sandbox_id, limit=0) == []
    first = api(quick, f"/sandboxes/{sandbox.sandbox_id}/logs", start=at_ms(whole[3]), limit=2).json()
    assert [entry["timestamp"] for entry in first["logs"]] == [entry["timestamp"] for entry in whole[3:5]]
    assert first["logEntries"] == whole[3:5]
    for query in ({"direction": "up"}, {"level": "fatal"}, {"limit": "1001"}, {"limit": "-1"}, {"cursor": "x"}):
        assert api(quick, f"/v2/sandboxes/{sandbox.sandbox_id}/logs", **query).status_code == 400


@needs_js
def test_command_line_client(quick: Server, sandbox: Sandbox) -> None:
    """`e2b sandbox logs` and `metrics` print what there is, also of a sandbox that ended (logs), with levels and loggers told apart."""
    cli = "node_modules/.bin/e2b"
    sandbox.run_code("import os; os._exit(7)")
    printed = js(quick, cli, "sandbox", "logs", sandbox.sandbox_id, "--format", "json")
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines] == ["sandbox.created", "execution.ended", "kernel.died"]
    severe = js(quick, cli, "sandbox", "logs", sandbox.sandbox_id, "--format", "json", "--level", "error")
    assert "kernel.died" in severe
    assert "sandbox.created" not in severe
    agents = js(quick, cli, "sandbox", "logs", sandbox.sandbox_id, "--format", "json", "--loggers", "agent")
    assert "sandbox.created" not in agents
    assert "kernel.died" in agents
    metric = json.loads(js(quick, cli, "sandbox", "metrics", sandbox.sandbox_id, "--format", "json").splitlines()[-1])
    assert metric["memTotal"] == 2048 << 20
    sandbox.kill()
    assert "sandbox.ended" in js(quick, cli, "sandbox", "logs", sandbox.sandbox_id)


def test_logs_and_metrics_go_on_after_crashes(quick: Server, sandbox: Sandbox) -> None:
    """After kill -9 of the supervisor and of the api process nothing is told twice, and the disk's use is still the real one."""
    sandbox.run_code("open('/home/user/file', 'wb').write(bytes(50 << 20))")
    before = logs(quick, sandbox.sandbox_id)
    time.sleep(1)
    for name in ("node", "api"):
        os.kill(quick.child(name), signal.SIGKILL)
        _wait_answer(quick)
    sandbox.run_code("2")
    after = logs(quick, sandbox.sandbox_id)
    assert after[: len(before)] == before
    assert [entry["fields"]["event"] for entry in after[len(before) :]] == ["execution.ended"]
    assert sandbox.get_metrics()[-1].disk_used > 50 << 20


def _wait_answer(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if api(server, "/health").status_code == 200:
                time.sleep(0.5)
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not come back")


def test_program_on_the_ipv6_loopback_is_reached(quick: Server, sandbox: Sandbox) -> None:
    """A program that listens on ::1 only answers through the server's port, and one on 127.0.0.1 is preferred to it."""
    serve = """
import http.server, socket, threading
def serve(family, host, port, word):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.send_header("Content-Length", str(len(word))); self.end_headers(); self.wfile.write(word)
        def log_message(self, *_): pass
    class Server(http.server.ThreadingHTTPServer):
        address_family = family
    threading.Thread(target=Server((host, port), Handler).serve_forever, daemon=True).start()
serve(socket.AF_INET6, "::1", 8001, b"six")
serve(socket.AF_INET6, "::1", 8002, b"six")
serve(socket.AF_INET, "127.0.0.1", 8002, b"four")
"""
    assert sandbox.run_code(serve).error is None
    for port, word in ((8001, "six"), (8002, "four"), (8003, None)):
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
        answer = httpx.get(quick.url, headers=headers)
        assert (answer.status_code, answer.text) == (200, word) if word else answer.status_code == 502


def test_log_of_another_team_is_not_found(quick: Server, sandbox: Sandbox) -> None:
    """Without the team's key, or for an id that never was, there is no log (I5)."""
    assert httpx.get(f"{quick.url}/v2/sandboxes/{sandbox.sandbox_id}/logs", headers={"X-API-KEY": "e2b_" + "0" * 40}).status_code == 401
    for path in ("/v2/sandboxes/{}/logs", "/sandboxes/{}/logs"):
        assert api(quick, path.format("z" * 20)).status_code == 404


def test_agents_reports_are_not_served_outside(quick: Server, sandbox: Sandbox) -> None:
    """The ingress answers 404 for what the server asks the agent, on both of its ports, token or not."""
    token = api(quick, f"/sandboxes/{sandbox.sandbox_id}").json()["envdAccessToken"]
    for port in (49983, 49999):
        for path in ("/logs", "/logs/", "/LOGS", "/logs?since=0"):
            headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), "X-Access-Token": token}
            assert httpx.get(quick.url + path, headers=headers).status_code == 404
