"""``cloister team`` and ``cloister key`` on a store without a server: tables, JSON, limits, ends, removal."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.main import main
from cloister.cli.moments import parse_expiry, parse_since
from cloister.errors import InvalidRequestError
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.store.sqlite import SqliteStore

ROW = Sandbox(
    sandbox_id="s" * 20,
    team_id="",
    template_id="tpl",
    template="base",
    state=SandboxState.RUNNING,
    started_at=1.0,
    end_at=4e9,
    cpu_count=1.5,
    mem_mib=10,
    disk_mib=20,
    metadata={},
    access_token=None,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with an empty store."""
    (tmp_path / "data" / "api").mkdir(parents=True)
    asyncio.run(_with_store(tmp_path / "data"))
    return tmp_path / "data"


async def _with_store(data: Path, row: Sandbox | None = None) -> list[Sandbox]:
    """The sandboxes in the store; adds ``row`` first."""
    store = await SqliteStore.open(data / "api" / "cloister.db")
    try:
        if row is not None:
            await store.add_sandbox(row)
        return list(await store.list_sandboxes(ended_since=0))
    finally:
        await store.close()


class Cli:
    """Runs commands on the data directory."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self._capsys = capsys

    def text(self, *words: str, code: int = 0) -> str:
        """Output and errors of a command with this exit code."""
        run_dir = ["--run-dir", str(self.data / "run")] if words[0] == "team" else []
        assert main([*words, "--data-dir", str(self.data), *run_dir]) == code
        output = self._capsys.readouterr()
        return output.out + output.err

    def json(self, *words: str) -> Any:
        """What the command prints with --json."""
        return json.loads(self.text(*words, "--json"))


@pytest.fixture
def cli(data: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line."""
    return Cli(data, capsys)


def test_a_team_from_its_creation_to_its_removal(cli: Cli) -> None:
    """Limits are set, shown with the use, taken away again; the removal refuses while sandboxes live and says what went."""
    team = cli.json("team", "create", "blue", "--sandboxes", "5", "--creations-per-s", "0.5")
    assert team["limits"]["sandboxes"] == {"own": 5, "effective": 5, "use": 0}
    assert "'blue' already" in cli.text("team", "create", "blue", code=1)
    asyncio.run(_with_store(cli.data, replace(ROW, team_id=team["id"])))
    team = cli.json("team", "limit", "blue", "--sandboxes", "default", "--cpu-count", "2.5")
    assert team["limits"]["sandboxes"] == {"own": None, "effective": 1000, "use": 1}
    assert team["limits"]["cpu_count"] == {"own": 2.5, "effective": 2.5, "use": 1.5}
    shown = cli.text("team", "show", team["id"])
    assert "1.5 of 2.5, its own limit" in shown
    assert "0 keys, 0 templates, 0 snapshots, 0 secrets, 1 sandboxes" in shown
    assert [one["name"] for one in cli.json("team", "list")] == ["blue"]
    assert "1 live or paused" in cli.text("team", "remove", "blue", code=1)
    assert "with 0 keys" in cli.text("team", "remove", "blue", "--kill")
    (row,) = asyncio.run(_with_store(cli.data))
    assert (row.state, row.end_reason) == (SandboxState.ENDED, EndReason.KILLED)
    assert cli.json("team", "list") == []
    assert "no team 'blue'" in cli.text("team", "show", "blue", code=1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--sandboxes", "1.5"), "whole number"),
        (("--sandboxes", "-1"), "from 0"),
        (("--sandboxes", "nan"), "from 0"),
        (("--sandboxes", "five"), "is no number"),
        (("--sandboxes", "1001"), "max_sandboxes_per_team"),
        (("--creations-per-s", "0"), "from 0.001"),
        ((), "no limit is given"),
    ],
)
def test_wrong_limits_are_refused_by_name(cli: Cli, words: tuple[str, ...], why: str) -> None:
    """The error has the limit and the values that it may have, and nothing changes."""
    cli.text("team", "create", "blue")
    assert why in cli.text("team", "limit", "blue", *words, code=1)
    assert all(limit["own"] is None for limit in cli.json("team", "show", "blue")["limits"].values())


def test_keys_are_listed_with_their_ends(cli: Cli) -> None:
    """A key has a name, a mask, an end and a state; its secret is printed once."""
    made = cli.json("key", "create", "ci", "--team", "blue", "--expires", "2090-01-31")
    assert made["expiresAt"] == "2090-01-31T00:00:00Z"
    cli.text("key", "create", "--admin", "ops")
    keys = [(key["scope"], key["name"], key["state"]) for key in cli.json("key", "list")]
    assert keys == [("team", "ci", "valid"), ("admin", "ops", "valid")]
    (listed,) = cli.json("key", "list", "--team", "blue")
    assert listed["mask"] == f"{made['key'][:8]}…{made['key'][-4:]}"
    assert made["key"] not in cli.text("key", "list")
    assert cli.json("key", "revoke", made["id"]) == {"id": made["id"], "state": "revoked"}
    assert "revoked" in cli.text("key", "list", "--team", "blue")


def test_ends_are_given_as_spans_and_dates() -> None:
    """Both forms; a date without a zone is UTC, and a time that is over is refused."""
    assert parse_expiry("90s", 10.0) == 100.0
    assert parse_expiry("2w", 0.0) == 14 * 86_400.0
    assert parse_expiry("1970-01-02", 0.0) == 86_400.0
    assert parse_expiry("1970-01-02T01:00:00+01:00", 0.0) == 86_400.0
    assert parse_since("90s", 100.0) == 10.0
    assert parse_since("1970-01-01", 100.0) == 0.0
    for wrong in ("", "soon", "5", "-5d", "5y", "1970-01-01", "999999999w", "2030-13-01"):
        with pytest.raises(InvalidRequestError):
            parse_expiry(wrong, time.time())
