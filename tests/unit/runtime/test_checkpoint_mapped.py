"""A file that a process maps from a zygote's mounts is found in a tree of its sandbox, whether the zygote lives or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.runtime.namespace.checkpoint import mapped


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, ...]:
    """A layer with the interpreter, and the agent tree."""
    layer, agent = tmp_path / "layer", tmp_path / "agent"
    for path in (layer / "usr/bin/python", agent / "site/agent.so"):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    return layer, agent


@pytest.mark.parametrize(
    ("shown", "tree", "below"),
    [
        ("/usr/bin/python", 0, "usr/bin/python"),
        ("/.cloister/rt/bin/python", 0, "usr/bin/python"),
        ("/bin/python", 0, "usr/bin/python"),
        ("/.cloister/agent/site/agent.so", 1, "site/agent.so"),
        ("/site/agent.so", 1, "site/agent.so"),
    ],
)
def test_a_file_is_found_by_its_path(trees: tuple[Path, ...], shown: str, tree: int, below: str) -> None:
    """Where a zygote has ended, its mounts are nowhere attached, and the kernel shows paths from their own roots."""
    status = (trees[tree] / below).stat()
    assert mapped._place_of(shown, status.st_ino, status.st_size, trees) == (str(trees[tree]), below)


def test_another_file_of_that_path_is_refused(trees: tuple[Path, ...]) -> None:
    """Neither its inode nor its size is right; nor is there a file of another path."""
    assert mapped._place_of("/bin/python", 1, 1, trees) is None
    status = (trees[0] / "usr/bin/python").stat()
    assert mapped._place_of("/lib/python", status.st_ino, status.st_size, trees) is None
