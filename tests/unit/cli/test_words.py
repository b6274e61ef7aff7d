"""Words of the command line: sides of a copy, pairs, filters, and whose sandboxes a command sees."""

from __future__ import annotations

import argparse
import base64
import os
from pathlib import Path

import pytest

from cloister.cli import ps
from cloister.cli.cell import result_files
from cloister.cli.cp import local_target, split_side
from cloister.cli.endpoint import is_operator, parse_pairs
from cloister.cli.fleet import Listed, wanted
from cloister.cli.main import COMMANDS, GROUPS, main
from cloister.errors import InvalidRequestError

SANDBOX = "abcdefghij0123456789"


@pytest.mark.parametrize(
    ("word", "side"),
    [
        (f"{SANDBOX}:/a:b", (SANDBOX, "/a:b")),
        (f"{SANDBOX}:", (SANDBOX, "")),
        (f"./{SANDBOX}:x", (None, f"./{SANDBOX}:x")),
        ("C:/x", (None, "C:/x")),
        ("a/b", (None, "a/b")),
    ],
)
def test_a_side_of_a_copy(word: str, side: tuple[str | None, str]) -> None:
    """Only the id of a sandbox before the first colon makes a path one of a sandbox."""
    assert split_side(word) == side


def test_pairs() -> None:
    """The first "=" separates; a value may be empty, a name may not."""
    assert parse_pairs("--env", ["A=b=c", "D="]) == {"A": "b=c", "D": ""}
    for wrong in ("A", "=b"):
        with pytest.raises(InvalidRequestError, match="--env takes NAME=VALUE"):
            parse_pairs("--env", [wrong])


def _args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ps.add_options(parser)
    return parser.parse_args(words)


def test_filters_choose_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox is among the chosen ones if every filter takes it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("E2B_API_URL", raising=False)
    one = Listed(
        sandbox_id="i",
        template="base",
        state="paused",
        runtime="",
        started_at=0.0,
        end_at=None,
        team="t",
        metadata={"a": "1", "b": "2"},
    )
    fitting = ("--metadata", "a=1", "--state", "paused", "--template", "base", "--team", "t")
    assert wanted(_args(*fitting))(one)
    for wrong in (("--metadata", "a=2"), ("--state", "running"), ("--template", "other"), ("--team", "u"), ("--metadata", "c=")):
        assert not wanted(_args(*fitting, *wrong))(one)


def test_root_without_a_key_is_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key and an address in the environment make root a client, --data-dir the operator again; another user never is."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("E2B_API_URL", raising=False)
    monkeypatch.setenv("E2B_API_KEY", "k")
    assert is_operator(_args())
    monkeypatch.setenv("E2B_API_URL", "http://x")
    monkeypatch.setenv("E2B_API_KEY", "k")
    assert not is_operator(_args())
    assert is_operator(_args("--data-dir", "/x"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not is_operator(_args("--data-dir", "/x"))


def test_files_of_a_result() -> None:
    """Each form of a result is a file; fields of another type, as a hostile sandbox may send, make none."""
    png = base64.b64encode(b"\x89PNG").decode()
    event = {"type": "result", "text": "t", "png": png, "html": "<b>", "json": {"a": 1}, "svg": 5, "jpeg": "no base64!", "pdf": None}
    assert dict(result_files(event)) == {"png": b"\x89PNG", "html": b"<b>", "json": b'{\n "a": 1\n}'}


def test_every_group_has_known_commands() -> None:
    """A command stands in one group of the help at most."""
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) <= set(COMMANDS)


def test_run_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program without a known language, a cell with arguments, and a time limit of nothing are refused before a sandbox is made."""
    (tmp_path / "p.ts").write_text("")
    for words, told in (
        (["p.xyz"], "give --language"),
        ([str(tmp_path / "p.ts"), "x"], "a cell of a kernel has no arguments"),
        (["--timeout", "0", "p.py"], "at least 1 second"),
        (["--save", "/proc/x", str(tmp_path / "p.ts")], "cannot make the directory /proc/x"),
        (["p.py"], "cannot read p.py: No such file"),
    ):
        assert main(["run", *words]) == 125
        assert told in capsys.readouterr().err


def test_a_copy_says_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local path that cannot be looked at or made is one line of error."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InvalidRequestError, match=r"cannot write .*/new: Permission denied"):
        local_target("/tree", str(tmp_path / "new"), is_directory=True)


@pytest.mark.parametrize("words", [["exec", "i", "--", "true"], ["run", "PROGRAM"]], ids=["exec", "run"])
def test_a_program_that_is_not_run_for_lack_of_a_server_has_no_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Without a key or a server the exit code is 125, which cannot be the program's 1."""
    for name in ("E2B_API_URL", "E2B_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "p.py"
    program.write_text("")
    command, *rest = [str(program) if word == "PROGRAM" else word for word in words]
    assert main([command, "--data-dir", str(tmp_path), *rest]) == 125
    assert "has `cloister serve` been started" in capsys.readouterr().err
