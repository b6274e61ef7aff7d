"""The audit log by REST and by command: each change of a client is one record, and none has a secret, code or a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.cli.main import main
from framework.control_plane import ControlPlane, running_control_plane
from framework.requests import ask, create, records
from framework.waiting import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for all tests here."""
    with running_control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def test_the_changes_of_a_sandbox_are_recorded(plane: ControlPlane) -> None:
    """Each has the key, the client's address, the object, the outcome and the id of the request, and reads have none."""
    sandbox_id = create(plane)["sandboxID"]
    ask(plane, "GET", f"/sandboxes/{sandbox_id}")
    ask(plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 300})
    ask(plane, "PUT", f"/sandboxes/{sandbox_id}/network", {"denyOut": ["192.0.2.0/24"]})
    ask(plane, "POST", f"/sandboxes/{sandbox_id}/pause", {})
    ask(plane, "POST", f"/sandboxes/{sandbox_id}/resume", {"timeout": 300})
    answer = ask(plane, "DELETE", f"/sandboxes/{sandbox_id}", X_Forwarded_For="6.6.6.6, 198.51.100.7")
    again = ask(plane, "DELETE", f"/sandboxes/{sandbox_id}")
    found = records(plane, objectID=sandbox_id)
    kinds = ["kill", "kill", "resume", "pause", "set_network", "set_timeout", "create"]
    assert [one["action"] for one in found] == [f"sandbox.{kind}" for kind in kinds]
    assert [(one["status"], one["error"]) for one in found[:2]] == [(again.status, "sandbox_not_found"), (204, None)]
    (key, team) = plane.with_keys(lambda keys: keys.list())[0]
    assert team is not None
    assert {(one["keyID"], one["teamID"]) for one in found} == {(key.key_id, team.team_id)}
    assert [one["address"] for one in found[:3]] == ["127.0.0.1", "198.51.100.7", "127.0.0.1"]
    assert found[1]["requestID"] == answer.headers["X-Request-Id"]


def test_pages_and_filters(plane: ControlPlane) -> None:
    """Pages follow each other without a gap, and bad parameters are named."""
    for _ in range(3):
        ask(plane, "DELETE", "/sandboxes/none")
    first = ask(plane, "GET", "/audit?limit=2&action=sandbox.kill&objectID=none")
    second = ask(plane, "GET", f"/audit?limit=2&objectID=none&nextToken={first.headers['X-Next-Token']}")
    numbers = [one["number"] for one in (*first.json(), *second.json())]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 3
    assert records(plane, since="2100-01-01T00:00:00Z") == []
    for wrong in ("since=yesterday", "since=2030-01-01T00:00:00", "limit=0", "nextToken=x", "nextToken=WzEsMl0="):
        assert ask(plane, "GET", f"/audit?{wrong}").status == 400, wrong


def test_commands_are_recorded_and_show_all(plane: ControlPlane, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``cloister key`` leaves records with the user, and ``cloister audit`` shows, filters and checks all."""
    directory = f"--data-dir={plane.settings.data_dir}"
    assert main(["key", "create", directory, "--team", "made-by-command", "name"]) == 0
    secret = capsys.readouterr().out.strip()
    assert main(["audit", directory, "--team", "made-by-command", "--json"]) == 0
    (made,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (made["action"], made["address"].startswith("uid:"), made["status"], made["error"]) == ("key.create", True, None, None)
    assert main(["key", "revoke", directory, "key_none"]) == 1
    assert main(["key", "revoke", directory, made["object_id"]]) == 0
    capsys.readouterr()
    assert main(["audit", directory, "--action", "key.revoke", "--since", "1h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[5] for line in lines] == ["not_found", "ok"]
    assert main(["audit", directory, "--json", "--limit", "1000"]) == 0
    assert secret not in capsys.readouterr().out
    assert main(["audit", directory, "--check"]) == 0
    (tmp_path / "noted").write_text(capsys.readouterr().out)
    assert main(["audit", directory, "--check", "--against", str(tmp_path / "noted")]) == 0


def test_a_check_by_command_names_the_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that is gone is found while the server runs, with exit code 1."""
    with running_control_plane(tmp_path / "plane") as plane:
        for _ in range(3):
            ask(plane, "DELETE", "/sandboxes/none")
        eventually(lambda: len(records(plane)) == 3)
        (path,) = (plane.settings.data_dir / "api" / "audit").glob("team_*/*.jsonl")
        first, _, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + last)
        assert main(["audit", f"--data-dir={plane.settings.data_dir}", "--check"]) == 1
        assert "record 2 is missing" in capsys.readouterr().err
        assert main(["audit", f"--data-dir={plane.settings.data_dir}", "--since", "tomorrow"]) == 1
        assert "--since" in capsys.readouterr().err


def test_required_records_refuse_changes_but_not_reads(tmp_path: Path) -> None:
    """With ``audit_required`` nothing is changed while records cannot be written; kills neither."""
    with running_control_plane(tmp_path / "plane", audit_required=True) as plane:
        sandbox_id = create(plane)["sandboxID"]
        eventually(lambda: records(plane))
        directory = plane.settings.data_dir / "api" / "audit"
        directory.rename(directory.with_name("elsewhere"))
        directory.write_text("no directory")
        eventually(lambda: b"audit_required" in ask(plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 300}).body)
        assert ask(plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 507
        assert ask(plane, "GET", f"/sandboxes/{sandbox_id}").status == 200
        directory.unlink()
        directory.with_name("elsewhere").rename(directory)
        eventually(lambda: ask(plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 204)
        assert {one["error"] for one in records(plane, action="sandbox.kill")} == {"storage_full", None}
