"""Which CRIU the server uses, and what it says when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.runtime.namespace.checkpoint.criu import CRIU_DIR, Entry, find_criu


def program(path: Path, says: str) -> Path:
    """A program that answers like this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def unpacked(directory: Path, says: str) -> Path:
    """A directory with an unpacked one, whose loader answers."""
    program(directory / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", says)
    return directory


def test_the_unpacked_one_is_preferred(tmp_path: Path) -> None:
    """It runs below its own loader, with its own libraries only."""
    unpacked(tmp_path / CRIU_DIR, "Version: 4.2.1")
    found = find_criu("auto", tmp_path)
    libraries = tmp_path / CRIU_DIR / "usr/lib/x86_64-linux-gnu"
    assert found.version == "4.2.1"
    assert found.argv[0] == str(libraries / "ld-linux-x86-64.so.2")
    assert found.argv[1:4] == ("--inhibit-cache", "--library-path", str(libraries))
    assert found.argv[-1] == str(tmp_path / CRIU_DIR / "usr/sbin/criu")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """A program of the operator's own, or a directory."""
    assert find_criu(str(program(tmp_path / "criu", "Version: 5.0")), tmp_path).argv == (str(tmp_path / "criu"),)
    assert find_criu(str(unpacked(tmp_path / "tree", "Version: 4.3")), tmp_path).version == "4.3"


@pytest.mark.parametrize(
    ("says", "cause"),
    [("Version: 3.17.1", "CRIU 3.17.1 is too old: checkpoints need 4.2 or newer"), ("Version: 4.1.1", "too old"), ("hello", "is no CRIU")],
)
def test_one_that_cannot_work_is_refused(tmp_path: Path, says: str, cause: str) -> None:
    """With the remedy."""
    with pytest.raises(UnavailableError, match=cause) as refused:
        find_criu(str(program(tmp_path / "criu", says)), tmp_path)
    assert "cloister checkpoint install" in str(refused.value.hint)


def test_a_path_without_a_program_is_refused(tmp_path: Path) -> None:
    """With the remedy."""
    with pytest.raises(UnavailableError, match="cannot be run") as refused:
        find_criu(str(tmp_path / "nothing"), tmp_path)
    assert "or `auto`: run `cloister checkpoint install" in str(refused.value.hint)


def test_only_a_dump_keeps_capabilities() -> None:
    """A restore has none of the host's, and a dump names exactly those that it keeps."""
    restore = Entry(pid_namespace=3, namespaces=(4, 5), image=9, user=0, groups=(6,), cpus=(0, 1))
    assert "CLOISTER_CAPABILITIES" not in restore.environment()
    dump = Entry(pid_namespace=3, namespaces=(4, 5), image=9, user=1000, capabilities=1 << 19 | 1 << 1, filter=7, sandbox_filter=8)
    assert dump.environment()["CLOISTER_CAPABILITIES"] == "80002"
    assert set(dump.descriptors()) == {3, 4, 5, 7, 8, 9}
