"""``cloister secret-key rotate``: another key, the same values; and never beside a running server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.control.secrets import NewSecret, Secrets
from cloister.model.secret import Secret
from cloister.model.team import Team
from cloister.node.instance import claim_instance
from cloister.store.sealing import SealingKeys
from cloister.store.sqlite import SqliteStore


async def _with_secrets(api: Path, values: dict[str, str], *, new: bool = False) -> dict[str, str]:
    """The values of these secrets as the store has them; with ``new`` they are stored first."""
    store = await SqliteStore.open(api / "cloister.db")
    try:
        keys = SealingKeys(api / "secrets.key")
        keys.open()
        secrets = Secrets(store.secrets, keys, most=10)
        if new:
            await store.teams.add_team(Team(team_id="team", name="t", created_at=0))
            for name, value in values.items():
                await secrets.create("team", NewSecret(name=name, value=Secret(value), metadata={}))
        return {name: (await secrets.value("team", name)).revealed for name in values}
    finally:
        await store.close()


def test_a_rotation_keeps_the_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value can be read with the new key alone."""
    api = tmp_path / "data" / "api"
    api.mkdir(parents=True)
    values = {"a": "sk-a", "b": "sk-b"}
    asyncio.run(_with_secrets(api, values, new=True))
    before = (api / "secrets.key").read_text()
    assert main(["secret-key", "rotate", "--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]) == 0
    assert "2 secrets" in capsys.readouterr().out
    after = (api / "secrets.key").read_text()
    assert len(after.splitlines()) == 1
    assert after != before
    assert asyncio.run(_with_secrets(api, values)) == values


def test_no_rotation_beside_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server has the former key in memory, so the command changes nothing."""
    api = tmp_path / "data" / "api"
    api.mkdir(parents=True)
    asyncio.run(_with_secrets(api, {"a": "sk-a"}, new=True))
    before = (api / "secrets.key").read_bytes()
    instance = claim_instance(tmp_path / "data", tmp_path / "run")
    try:
        assert main(["secret-key", "rotate", "--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]) == 1
    finally:
        os.close(instance.lock_fd)
    assert "a server runs" in capsys.readouterr().err
    assert (api / "secrets.key").read_bytes() == before


def test_a_directory_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and nothing is made in it."""
    assert main(["secret-key", "rotate", "--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run")]) == 1
    assert "cloister.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
