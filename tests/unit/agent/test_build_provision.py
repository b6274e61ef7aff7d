"""What every image gets: an account, directories, commands."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cloister.agent.build import provision
from cloister.errors import InvalidRequestError


@pytest.fixture(autouse=True)
def borrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that links lead to; owners need root and stay as they are."""
    program = tmp_path / "borrow"
    program.touch(mode=0o755)
    monkeypatch.setattr(provision, "BORROW", str(program))
    monkeypatch.setattr(os, "chown", lambda *_args, **_more: None)
    return program


def image(root: Path, *programs: str) -> Path:
    """A tree with these programs."""
    for name in programs:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    return root


def links(root: Path) -> set[str]:
    """Where the image has links to our program."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink()}


def test_empty_image_gets_a_shell_and_what_one_looks_around_with(tmp_path: Path) -> None:
    """Nothing at all was there."""
    root = tmp_path / "root"
    root.mkdir()
    assert provision.run({}, root) == {"user": "user", "workdir": "/home/user"}
    found = links(root)
    assert {"bin/bash", "bin/sh", "usr/local/bin/ss", "usr/local/bin/curl", "usr/local/bin/pgrep", "usr/local/bin/ls"} <= found
    assert "user:x:1000:1000::/home/user:/bin/bash" in (root / "etc/passwd").read_text()
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "home/user").is_dir()


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Only what is missing is added: with a shell of its own an image gets bash and the commands of ready checks, no more."""
    root = image(tmp_path / "root", "bin/sh", "bin/grep", "usr/bin/curl", "bin/sleep", "usr/bin/wc")
    (root / "tmp").mkdir(mode=0o777)
    provision.run({}, root)
    assert links(root) == {"bin/bash", "usr/local/bin/ss", "usr/local/bin/pgrep"}
    assert not (root / "usr/bin/curl").is_symlink()
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


def test_directories_that_are_links_are_followed(tmp_path: Path) -> None:
    """As in a merged /usr."""
    root = image(tmp_path / "root", "usr/bin/sh")
    (root / "bin").symlink_to("usr/bin")
    provision.run({}, root)
    assert (root / "usr/bin/bash").is_symlink()


@pytest.mark.parametrize(
    ("user", "workdir", "found"),
    [
        ("", "/app", {"user": "user", "workdir": "/home/user"}),
        ("root", "/app", {"user": "user", "workdir": "/home/user"}),
        ("0:0", "/app", {"user": "user", "workdir": "/home/user"}),
        ("web", "/app/x", {"user": "web", "workdir": "/app/x"}),
        ("33", "", {"user": "web", "workdir": "/"}),
        ("4000", "srv", {"user": "uid4000", "workdir": "/srv"}),
    ],
)
def test_user_that_the_image_names(tmp_path: Path, user: str, workdir: str, found: dict[str, str]) -> None:
    """Another one than root is the template's, in the image's directory, which is made; by number too."""
    root = image(tmp_path / "root", "bin/sh")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n")
    assert provision.run({"user": user, "workdir": workdir}, root) == found
    assert (root / found["workdir"].lstrip("/")).is_dir()


def test_user_whom_the_image_does_not_have(tmp_path: Path) -> None:
    """Is refused by name."""
    with pytest.raises(InvalidRequestError, match="'ghost'"):
        provision.run({"user": "ghost"}, image(tmp_path / "root", "bin/sh"))


def test_image_with_a_file_where_a_directory_must_be(tmp_path: Path) -> None:
    """Is refused, and the place named."""
    with pytest.raises(InvalidRequestError, match="/tmp"):
        provision.run({}, image(tmp_path / "root", "tmp"))
