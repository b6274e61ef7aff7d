"""CRIU's notes about the kernel: written while checkpoints are tried, and read alone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.runtime.namespace.checkpoint.facts import KernelFacts

pytestmark = pytest.mark.root


def written(fd: int, name: str, *, user: int = 54321) -> bool:
    """Whether a user of a sandbox can write into the directory, as CRIU does."""
    child = os.fork()
    if not child:
        try:
            os.setresuid(user, user, user)
            os.fchdir(fd)
            Path(name).write_text("facts")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def found(mount: int) -> dict[str, tuple[int, int]]:
    """The owner and the mode of each file."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)
    try:
        with os.scandir(directory) as entries:
            seen = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        return {name: (status.st_uid, status.st_mode & 0o7777) for name, status in seen.items()}
    finally:
        os.close(directory)


def test_a_dumper_cannot_change_what_the_next_one_believes() -> None:
    """Only the runs that try checkpoints write. Other files of theirs are removed; afterwards not even root writes."""
    facts = KernelFacts()
    assert written(facts.of_dump, "criu.kdat")
    assert written(facts.of_dump, "other")
    os.symlink("/etc/passwd", "criu.kdat", dir_fd=facts.of_restore)
    facts.close()
    assert (found(facts.of_dump), found(facts.of_restore)) == ({"criu.kdat": (0, 0o644)}, {})
    for mount in (facts.of_dump, facts.of_restore):
        assert os.fstatvfs(mount).f_flag & os.ST_RDONLY
        for user in (54321, 0):
            assert not written(mount, "criu.kdat", user=user)
