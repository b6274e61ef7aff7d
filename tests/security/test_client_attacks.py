"""A sandbox attacks the machine of the user who runs ``cloister`` commands against it."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox whose tar is its owner's own program."""
    made = Sandbox.create("base", timeout=900, **server.sdk)
    made.commands.run("echo x > /tmp/wanted; mkdir /tmp/tree")
    yield made
    made.kill()


def answer_with(sandbox: Sandbox, *members: tarfile.TarInfo) -> None:
    """Let the sandbox's tar print an archive of these members, each file with the content ``evil``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            member.size = 4 if member.isfile() else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    text = base64.b64encode(packed.getvalue()).decode()
    script = f"#!/bin/sh\necho {text} | base64 -d\n"
    sandbox.files.write("/usr/local/bin/tar", script, user="root")
    sandbox.commands.run("chmod 755 /usr/local/bin/tar", user="root")


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """One member."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def test_sandbox_cannot_write_outside_of_a_copy(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    """Paths that lead out, links that do, and files with rights of their owner are left out or made harmless."""
    outside = tmp_path / "outside"
    outside.mkdir()
    answer_with(
        sandbox,
        entry("./fine"),
        entry("./../outside/by-path"),
        entry(f"{outside}/by-absolute-path"),
        entry("./door", tarfile.SYMTYPE, str(outside)),
        entry("./door/by-link"),
        entry("./up", tarfile.SYMTYPE, ".."),
        entry("./up/outside/by-relative-link"),
        entry("./hard", tarfile.LNKTYPE, "/etc/passwd"),
        entry("./device", tarfile.CHRTYPE),
        entry("./setuid", mode=0o4777),
    )
    done = server.cli("cp", f"{sandbox.sandbox_id}:/tmp/tree", str(tmp_path / "copy"), check=False)
    assert done.returncode == 1
    assert "left out" in done.stderr
    assert list(outside.iterdir()) == []
    copy = tmp_path / "copy"
    assert (copy / "fine").read_text() == "evil"
    assert not (copy / "door").is_symlink()
    assert not (copy / "device").exists()
    assert (copy / "setuid").stat().st_mode & 0o7022 == 0


def test_sandbox_cannot_mislead_a_copy_by_links(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    """Members below a link of the archive are left out, and hard links to members that were left out."""
    answer_with(
        sandbox,
        entry("./a", tarfile.DIRTYPE),
        entry("./here", tarfile.SYMTYPE, "a"),
        entry("./here/below"),
        entry("./pipe", tarfile.FIFOTYPE),
        entry("./copied", tarfile.LNKTYPE, "./pipe"),
    )
    copy = tmp_path / "copy"
    done = server.cli("cp", f"{sandbox.sandbox_id}:/tmp/tree", str(copy), check=False)
    assert done.returncode == 1
    assert done.stderr.count("left out") == 3
    assert sorted(path.name for path in copy.rglob("*")) == ["a", "here"]


def test_sandbox_cannot_use_links_of_the_target(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    """Links that the user has in the target already lead a copy nowhere."""
    outside, copy = tmp_path / "outside", tmp_path / "copy"
    (copy / "tree").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    (copy / "tree" / "file").symlink_to(outside / "file")
    (copy / "tree" / "directory").symlink_to(outside)
    answer_with(sandbox, entry("./file"), entry("./directory/new"))
    done = server.cli("cp", f"{sandbox.sandbox_id}:/tmp/tree", str(copy), check=False)
    assert done.returncode == 1
    assert done.stderr.count("left out") == 2
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "mine"}


def test_sandbox_cannot_replace_a_file_by_a_link(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    """A copy of a file is a file, whatever the archive holds; other members of it are not written."""
    answer_with(sandbox, entry("wanted", tarfile.SYMTYPE, "target"), entry("../other", tarfile.DIRTYPE))
    done = server.cli("cp", f"{sandbox.sandbox_id}:/tmp/wanted", str(tmp_path / "wanted"), check=False)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_sandbox_cannot_steer_the_terminal(server: Server, sandbox: Sandbox) -> None:
    """Control characters of a sandbox's own words do not reach the terminal: from its log, and from the error of its tar."""
    sandbox.commands.run("true '\x1b]0;owned\x07'")
    sandbox.files.write("/usr/local/bin/tar", "#!/bin/sh\nprintf '\\033]0;owned\\007' >&2\nexit 1\n", user="root")
    sandbox.commands.run("chmod 755 /usr/local/bin/tar", user="root")
    log = server.cli("logs", sandbox.sandbox_id)
    copy = server.cli("cp", f"{sandbox.sandbox_id}:/tmp/wanted", "/dev/null", check=False)
    for printed in (log.stdout, copy.stderr):
        assert "owned" in printed
        assert "\x1b" not in printed
        assert "\x07" not in printed
