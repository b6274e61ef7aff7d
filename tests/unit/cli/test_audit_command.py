"""``cloister audit`` on the files of a server that does not run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.model.audit import OPERATOR, AuditRecord
from cloister.store.audit import AuditFiles
from cloister.store.sqlite import SqliteStore

TEAM = "team_0123456789abcdef"


def record(number: int, team_id: str | None = TEAM, action: str = "sandbox.create") -> AuditRecord:
    """A record of a time that says its number."""
    return AuditRecord(at=1e9 + number, team_id=team_id, key_id="k", address="192.0.2.1", action=action, object_id=f"o{number}", status=201)


async def _make_store(path: Path) -> None:
    await (await SqliteStore.open(path)).close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a store, and records of a team and of the operator."""
    (tmp_path / "data" / "api").mkdir(parents=True)
    asyncio.run(_make_store(tmp_path / "data" / "api" / "cloister.db"))
    files = AuditFiles(tmp_path / "data" / "api" / "audit", total_bytes=64 << 20)
    files.append(OPERATOR, [record(0, None, "team.create")])
    files.append(TEAM, [record(number) for number in range(1, 10)])
    return tmp_path / "data"


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The objects of the records that a command printed."""
    return [json.loads(line)["object_id"] for line in capsys.readouterr().out.splitlines()]


def test_the_latest_records_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oldest of them first; of one kind or team if it is named."""
    for words, expected in (
        (["--limit", "3"], ["o7", "o8", "o9"]),
        (["--action", "team"], ["o0"]),
        (["--team", OPERATOR], ["o0"]),
        (["--limit", "99"], [f"o{number}" for number in range(10)]),
    ):
        assert main(["audit", "--json", "--data-dir", str(data), *words]) == 0
        assert shown(capsys) == expected


def test_following_shows_each_new_record_once(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come between two looks, and whatever the limit of the first ones is. Former records of others stay where they are."""
    files = AuditFiles(data / "api" / "audit", total_bytes=64 << 20)
    bursts = [[record(number) for number in range(10, 5000)], [record(5000, None, "key.create")], [], [record(5001)]]

    def write_more(_: float) -> None:
        if not bursts:
            raise KeyboardInterrupt
        if burst := bursts.pop(0):
            files.append(burst[0].owner, burst)

    monkeypatch.setattr(time, "sleep", write_more)
    assert main(["audit", "--json", "--data-dir", str(data), "-f", "--limit", "2"]) == 130
    assert shown(capsys) == [f"o{number}" for number in range(8, 5002)]
