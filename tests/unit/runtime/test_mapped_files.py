"""Where a file that a process maps is found: by its path in a zygote, and by its path in a mount that is nowhere any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.runtime.namespace.checkpoint.mapped import _place_of

FILES = {"interpreter/usr/bin/python": "p", "agent/site/agent.so": "ag", "layer/usr/lib/libc.so": "lib"}


@pytest.mark.parametrize(
    ("path", "tree", "below"),
    [
        ("/.cloister/rt/bin/python", "interpreter", "usr/bin/python"),
        ("/bin/python", "interpreter", "usr/bin/python"),
        ("/.cloister/agent/site/agent.so", "agent", "site/agent.so"),
        ("/site/agent.so", "agent", "site/agent.so"),
        ("/usr/lib/libc.so", "layer", "usr/lib/libc.so"),
    ],
)
def test_a_mapped_file_is_found_in_its_tree(tmp_path: Path, path: str, tree: str, below: str) -> None:
    """Also when the zygote has ended, so that the path begins at the root of the mount; a file of another inode and size is not it."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    trees = (tmp_path / "interpreter", tmp_path / "agent", tmp_path / "layer")
    status = (tmp_path / tree / below).stat()
    assert _place_of(path, status.st_ino, status.st_size, trees) == (str(tmp_path / tree), below)
    assert _place_of(path, status.st_ino + 1_000_000, status.st_size + 1, trees) is None
