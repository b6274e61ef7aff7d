"""The audit log has the commands that change a server as a whole, with the user who gave them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cloister.cli import drain
from cloister.cli.main import main
from cloister.model.audit import AuditQuery
from cloister.model.drain import Drained
from cloister.store.audit import AuditFiles
from cloister.store.sqlite import SqliteStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give these commands")


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """The options of a stopped server with a database."""

    async def fill() -> None:
        await (await SqliteStore.open(tmp_path / "data" / "api" / "cloister.db")).close()

    (tmp_path / "data" / "api").mkdir(parents=True)
    (tmp_path / "data" / "node").mkdir()
    asyncio.run(fill())
    return [word for name in ("data", "store", "run") for word in (f"--{name}-dir", str(tmp_path / name))]


def records(tmp_path: Path) -> list[tuple[str, str, str | None]]:
    """Action, object and error of each, the latest first."""
    page = AuditFiles(tmp_path / "data" / "api" / "audit", total_bytes=1 << 20).read(AuditQuery())
    assert all(one.record.address.startswith("uid:") for one in page.records)
    return [(one.record.action, one.record.object_id, one.record.error) for one in page.records]


def test_backups_and_restorations_are_recorded(tmp_path: Path, places: list[str]) -> None:
    """With the file, also where they fail."""
    backup = tmp_path / "b.tar"
    assert main(["backup", str(backup), *places[:4]]) == 0
    assert main(["backup", str(backup), *places[:4]]) == 1
    assert main(["restore", str(backup), *places]) == 1
    assert main(["restore", "--replace", str(backup), *places]) == 0
    file = str(backup)
    assert records(tmp_path) == [
        ("server.restore", file, None),
        ("server.restore", file, "conflict"),
        ("server.backup", file, "conflict"),
        ("server.backup", file, None),
    ]


def test_drains_are_recorded(tmp_path: Path, places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their beginning and their end."""
    monkeypatch.setattr(drain, "change_drain", lambda *_, **__: Drained(state=None, running=0, paused={}))
    for words in ((), ("--undo",)):
        assert main(["drain", *words, *places[:2], *places[4:]]) == 0
    assert [action for action, _, _ in records(tmp_path)] == ["server.undrain", "server.drain"]


def test_an_uninstallation_is_recorded(tmp_path: Path, places: list[str]) -> None:
    """The data stays, and the record with it."""
    assert main(["service", "uninstall", "--unit-dir", str(tmp_path / "units"), *places]) == 0
    assert records(tmp_path) == [("server.uninstall", str(tmp_path / "data"), None)]
