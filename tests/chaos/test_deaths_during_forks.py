"""A host process is killed in the middle of forks and snapshots: the original goes on, and nothing of a cut-off fork is left."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox

from framework.http import call
from framework.server import Server, running_server
from framework.template_store import own_store
from framework.waiting import eventually

FILES: Any = {"api_headers": {"X-Fork-Memory": "false"}}
pytestmark = pytest.mark.root
_DELAYS_S = (0.01, 0.05, 0.1, 0.15, 0.25)
"""Before, in the middle of, and after the capture, and while the copies are made."""
_COPIES_LIVE_S = 15


@pytest.fixture(scope="module")
def store(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for that server alone."""
    return own_store(tmp_path_factory.mktemp("forks") / "store")


@pytest.fixture(scope="module")
def own(store: Path) -> Iterator[Server]:
    """A server that may be hurt."""
    with running_server("--store-dir", str(store)) as server:
        yield server


def sdk(server: Server) -> Any:
    """Keyword arguments that point the SDK at the server."""
    return server.sdk


def live(server: Server) -> set[str]:
    """The ids of the sandboxes that the API lists."""
    answer = call(server.url, "GET", "/sandboxes", headers={"X-API-KEY": server.api_key})
    return {one["sandboxID"] for one in answer.json()} if answer.status == 200 else set()


def records(server: Server) -> set[str]:
    """The ids of the sandboxes of teams that the node's journal has."""
    found = set()
    for path in (server.data_dir / "node" / "sandboxes").glob("*/record.json"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if json.loads(path.read_text())["record"]["team_id"]:
                found.add(path.parent.name)
    return found


def answers(sandbox: Sandbox, command: str) -> str:
    """The output of a command; empty while the server is away."""
    with contextlib.suppress(Exception):
        return sandbox.commands.run(command, request_timeout=5).stdout.strip()
    return ""


def fork_and_kill(server: Server, sandbox: Sandbox, process: str, delay_s: float) -> list[Sandbox]:
    """Kill the process so long after the beginning of a fork; the copies that the client was told of."""
    with ThreadPoolExecutor(1) as threads:
        forking = threads.submit(lambda: sandbox.fork(count=3, timeout=_COPIES_LIVE_S, retries=0, **FILES))
        time.sleep(delay_s)
        server.kill_child(process)
    return [] if forking.exception() else [one for one in forking.result() if isinstance(one, Sandbox)]


def wait_for_only(server: Server, *wanted: Sandbox) -> None:
    """Return when the API and the node have no other sandboxes."""
    ids = {one.sandbox_id for one in wanted}
    eventually(lambda: live(server) <= ids and records(server) <= ids, 60)


@pytest.mark.parametrize("process", ["node", "api"])
def test_deaths_during_forks(own: Server, process: str) -> None:
    """After each death the original has its file and its process. Copies that the client was not told of are gone, at their time-out."""
    with Sandbox.create("base", timeout=900, **sdk(own)) as sandbox:
        sandbox.commands.run("head -c 50M /dev/urandom > big; sha256sum big > sum")
        job = sandbox.commands.run("sleep 900", background=True)
        for delay_s in _DELAYS_S:
            told = fork_and_kill(own, sandbox, process, delay_s)
            assert eventually(lambda: answers(sandbox, "sha256sum -c sum")) == "big: OK"
            assert str(job.pid) in answers(sandbox, "pgrep sleep").split()
            for one in told:
                assert answers(one, "sha256sum -c sum") in ("big: OK", "")  # one whose creation was cut off has ended
                one.kill()
            wait_for_only(own, sandbox)
        (copy,) = eventually(lambda: [one for one in sandbox.fork(**FILES) if isinstance(one, Sandbox)])
        assert copy.commands.run("sha256sum -c sum").stdout.strip() == "big: OK"
        copy.kill()
    wait_for_only(own)


def test_no_capture_is_left(own: Server, store: Path) -> None:
    """When all sandboxes have ended, the clean-up drops every capture; no snapshot is listed."""
    headers = {"X-API-KEY": own.api_key}
    assert call(own.url, "GET", "/snapshots", headers=headers).json() == []
    assert eventually(lambda: live(own) == set())
    with Sandbox.create("base", timeout=60, **sdk(own)) as sandbox:
        assert all(isinstance(one, Sandbox) and one.kill() for one in sandbox.fork(**FILES))
        assert captures(store)
        snapshot = sandbox.create_snapshot()
    assert Sandbox.delete_snapshot(snapshot.snapshot_id, api_key=own.api_key, api_url=own.url)  # which cleans up at once
    eventually(lambda: not captures(store))


def captures(store: Path) -> list[str]:
    """The captures of forks that the store has."""
    return [path.stem for path in (store / "builds").glob("*.json") if json.loads(path.read_text())["for_copies"]]
