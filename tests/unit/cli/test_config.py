"""``cloister config``: the settings in effect, their sources, and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.main import main


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that name a file with a setting; another setting is in the environment."""
    file = tmp_path / "cloister.toml"
    file.write_text('domain = "sandboxes.example.com"\nmax_connections = 5000\n')
    monkeypatch.setenv("CLOISTER_MAX_CONNECTIONS", "6000")
    return ["--config", str(file), "--listen", "127.0.0.1:4000"]


def test_each_setting_has_its_source(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The option, the environment, the file or the default; the first that has it counts."""
    assert main(["config", "show", "--json", *words]) == 0
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["listen"]["value"], rows["listen"]["source"]) == ("127.0.0.1:4000", "command line")
    assert (rows["max_connections"]["value"], rows["max_connections"]["source"]) == (6000, "environment")
    assert rows["domain"]["source"] == str(tmp_path / "cloister.toml")
    assert rows["on_stop"]["source"] == "default"
    assert main(["config", "show", "--name", "listen", *words]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["listen", "127.0.0.1:4000", "command", "line"]
    assert main(["config", "show", "--name", "lisen", *words]) == 1
    assert "there is no setting lisen" in capsys.readouterr().err


def test_check_tells_every_fault(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a line for each, with its source."""
    (tmp_path / "cloister.toml").write_text('domain = "not a domain"\nmax_conections = 5\n')
    assert main(["config", "check", *words]) == 2
    told = capsys.readouterr().err.splitlines()
    assert any("not a domain name" in line for line in told)
    assert "did you mean max_connections?" in told[0]
    assert main(["config", "check", "--json", *words]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], len(answer["faults"])) == (False, len(told))
