"""Clients learn the true reason of an end after stops, crashes and damage, whichever process was away (I10).

Damage ends no sandbox (I8).
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from cloister.node.instance import RUN_ROOT
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

QUICK = ("--pool-size", "0", "--zygotes", "false")


def run_dir(server: Server) -> Path:
    """Where the server's instance has its files."""
    claims = (RUN_ROOT / "instances").iterdir()
    return RUN_ROOT / next(claim.name for claim in claims if claim.read_text() == str(server.data_dir.resolve()))


def why(server: Server, sandbox_id: str) -> str:
    """The API's message about a sandbox that ended."""
    answer = httpx.get(f"{server.url}/sandboxes/{sandbox_id}", headers={"X-API-KEY": server.api_key})
    assert answer.status_code == 404, answer.text
    return str(answer.json()["message"])


def logged(server: Server, sandbox_id: str) -> dict[str, Any]:
    """The end's entry in the sandbox's log."""
    answer = httpx.get(f"{server.url}/sandboxes/{sandbox_id}/logs", headers={"X-API-KEY": server.api_key})
    (entry,) = [one for one in answer.json()["logEntries"] if one["fields"]["event"] == "sandbox.ended"]
    return dict(entry)


def pid_1(server: Server, sandbox_id: str) -> int:
    """Of a sandbox, on the host."""
    record = json.loads((server.data_dir / "node" / "sandboxes" / sandbox_id / "record.json").read_text())
    return int(record["runtime"]["pid"])


def test_ends_while_others_are_away(stock_templates: None) -> None:
    """Each end has its own reason: stopped with the server; expired and crashed without the api process; dead without a supervisor."""
    with running_server(*QUICK) as first:
        expired = Sandbox.create(template="base", timeout=12, **first.sdk)
        crashed, unseen, stopped = (Sandbox.create(template="base", timeout=300, **first.sdk) for _ in range(3))
        os.kill(first.child("api"), signal.SIGSTOP)
        os.kill(pid_1(first, crashed.sandbox_id), signal.SIGKILL)
        for gone in (crashed, expired):
            eventually(lambda gone=gone: not (first.data_dir / "node" / "sandboxes" / gone.sandbox_id).exists(), 40)  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        api, node = first.child("api"), first.child("node")
        os.kill(node, signal.SIGSTOP)
        os.kill(pid_1(first, unseen.sandbox_id), signal.SIGKILL)
        os.kill(node, signal.SIGKILL)
        os.kill(api, signal.SIGKILL)
        eventually(lambda: "access to it: it crashed (it ended while" in _try_why(first, unseen.sandbox_id), 40)
        assert "it crashed (its first process ended)" in why(first, crashed.sandbox_id)
        assert "it reached its timeout" in why(first, expired.sandbox_id)
        stopped_at = time.time()
        assert first.stop() == 0
        time.sleep(6)  # so that the time of the end differs from that of the next start
        with running_server(*QUICK, data_dir=first.data_dir) as second:
            assert "it was stopped with the server" in why(second, stopped.sandbox_id)
            entry = logged(second, stopped.sandbox_id)
            assert entry["fields"]["reason"] == "stopped"
            assert abs(datetime.fromisoformat(entry["timestamp"]).timestamp() - stopped_at) < 5


def _try_why(server: Server, sandbox_id: str) -> str:
    try:
        return why(server, sandbox_id)
    except (httpx.HTTPError, AssertionError):
        return ""


def test_damaged_record_ends_no_sandbox(stock_templates: None) -> None:
    """A supervisor that finds a truncated record and a damaged zone file keeps the sandbox and its deadline.

    When the copy is damaged too, only that sandbox ends, and its client learns why. The record is kept for the operator.
    """
    with running_server(*QUICK) as server:
        kept, lost = (Sandbox.create(template="base", timeout=300, **server.sdk) for _ in range(2))
        deadline = kept.get_info().end_at
        record = server.data_dir / "node" / "sandboxes" / kept.sandbox_id / "record.json"
        whole = record.read_bytes()
        for length in (0, len(whole) // 2, len(whole) - 1):
            record.write_bytes(whole[:length])
            for note in run_dir(server).glob("zones/*/zone.json"):
                note.write_bytes(note.read_bytes()[: length // 8])
            server.kill_child("node")
            eventually(lambda: record.read_bytes() == whole, 40)
            assert kept.commands.run("echo lives").stdout == "lives\n"
        damaged = server.data_dir / "node" / "sandboxes" / lost.sandbox_id / "record.json"
        for path in (damaged, run_dir(server) / "records" / f"{lost.sandbox_id}.json"):
            path.write_bytes(path.read_bytes()[:-1])
        server.kill_child("node")
        eventually(lambda: "it crashed (the node's record of it was damaged)" in _try_why(server, lost.sandbox_id), 40)
        assert (server.data_dir / "node" / "damaged" / f"{lost.sandbox_id}.json").exists()
        assert kept.commands.run("echo lives").stdout == "lives\n"
        assert kept.get_info().end_at == deadline
        assert kept.kill()
