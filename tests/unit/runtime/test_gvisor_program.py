"""Which ``runsc`` the server uses, what it says when there is none, and what a trial of one finds. No test runs a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.runtime.gvisor import probe
from cloister.runtime.gvisor.probe import probe_once, probe_runsc
from cloister.runtime.gvisor.program import check_runsc, find_runsc, installed_runsc
from framework.waiting import eventually

SAYS = "echo runsc version cloister-20260905; echo spec: 1.1.0"


def program(path: Path, script: str) -> Path:
    """A program that does this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_setting_comes_before_the_installed_one(tmp_path: Path) -> None:
    """Without a setting, the one in the store is used."""
    theirs = program(tmp_path / "runsc", "echo runsc version release-20261002.0")
    ours = program(installed_runsc(tmp_path), SAYS)
    assert find_runsc(None, tmp_path).path == ours
    assert find_runsc(None, tmp_path).version == "cloister-20260905"
    assert find_runsc(theirs, tmp_path).version == "release-20261002.0"


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo runsc version release-20240729.0", "release-20240729.0 is older than 20260905"),
        ("echo runsc version VERSION_MISSING", "does not say its date"),
        ("echo hello", "is no runsc: it says 'hello"),
    ],
)
def test_one_that_cannot_work_is_refused(tmp_path: Path, script: str, cause: str) -> None:
    """With the remedy."""
    with pytest.raises(UnavailableError, match=cause) as refused:
        check_runsc(program(tmp_path / "runsc", script))
    assert "cloister runtime install gvisor" in str(refused.value.hint)


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing one, a directory, and a file that is no program."""
    with pytest.raises(UnavailableError, match="runsc is not installed") as refused:
        find_runsc(None, tmp_path)
    assert "cloister runtime install gvisor" in str(refused.value.hint)
    with pytest.raises(UnavailableError, match="cannot be run") as refused:
        find_runsc(tmp_path / "nothing", tmp_path)
    assert str(refused.value.hint).startswith("correct the setting runsc; or leave it out")
    with pytest.raises(UnavailableError, match="is no program"):
        find_runsc(tmp_path, tmp_path)


def test_one_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Root runs it."""
    path = program(tmp_path / "runsc", SAYS)
    path.chmod(0o775)
    with pytest.raises(UnavailableError, match="can be changed by others"):
        check_runsc(path)


def test_a_trial_tells_what_failed(tmp_path: Path) -> None:
    """With what the program wrote."""
    path = program(tmp_path / "runsc", "echo 'cannot set up  memory' >&2; exit 128")
    with pytest.raises(UnavailableError, match=r"could not run a program \(status 128\): cannot set up memory"):
        probe_runsc(path)


def test_a_trial_ends_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all its children."""
    monkeypatch.setattr(probe, "_TIMEOUT_S", 2.0)
    path = program(tmp_path / "runsc", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(UnavailableError, match=r"did not run a program within 2 s"):
        probe_runsc(path)
    stat = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    eventually(lambda: not stat.exists() or ") Z " in stat.read_text())


def test_a_trial_uses_neither_kvm_nor_the_hosts_network(tmp_path: Path) -> None:
    """The one may hang, the other switches the host's forwarding on."""
    path = program(tmp_path / "runsc", f'echo "$@" > {tmp_path}/words; exit 1')
    with pytest.raises(UnavailableError):
        probe_runsc(path)
    words = (tmp_path / "words").read_text().split()
    assert {"--platform=systrap", "--network=none", "--ignore-cgroups"} <= set(words)


def test_a_program_that_has_worked_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it changes, or the note is of another boot; one that fails is tried again."""
    tried: list[Path] = []
    monkeypatch.setattr(probe, "probe_runsc", tried.append)
    path, note = program(tmp_path / "runsc", SAYS), tmp_path / "note"
    for _ in range(2):
        probe_once(path, note)
    assert tried == [path]
    path.write_text("#!/bin/sh\nexit 1\n")
    probe_once(path, note)
    assert len(tried) == 2
    note.write_text(note.read_text().replace('"boot": "', '"boot": "0'))
    probe_once(path, note)
    assert len(tried) == 3

    def refuse(_path: Path) -> None:
        raise UnavailableError("it does not work")

    monkeypatch.setattr(probe, "probe_runsc", refuse)
    note.write_text("{")
    for _ in range(2):
        with pytest.raises(UnavailableError):
            probe_once(path, note)
