"""Bounds of disks on control groups v2, on directories that play them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.disks.rates import DiskRates
from cloister.linux.blkio import Rates
from cloister.linux.cgroup import CgroupTree, _TreeV2


class OlderTree(_TreeV2):
    """Groups of a version that did not ask for the io controller: the kernel makes its files when it is asked for."""

    def enable_controllers(self) -> None:
        """As the kernel does it."""
        super().enable_controllers()
        for parent in (self._root, self._root / "cloister", self._root / self._path):
            assert "+io" in (parent / "cgroup.subtree_control").read_text()
        for group in (self._root / self._path).iterdir():
            if group.is_dir():
                (group / "io.max").touch()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupTree:
    """With one sandbox."""
    monkeypatch.setattr("cloister.disks.rates.lacks_rates", lambda _version: "")
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids")
    tree = OlderTree(1, tmp_path)
    tree.directories("old")["unified"].mkdir(parents=True)
    return tree


def test_sandbox_of_an_older_version_is_bounded_and_not_ended(tree: CgroupTree) -> None:
    """Its control group has no file for it before the controller is asked for."""
    told, ended = list[str](), list[str]()
    rates = DiskRates(Rates(1000, None), tree, lambda event, _fields: told.append(event))
    rates.bound("old", 3, lambda: ended.append("old"))
    rates.close()
    assert (told, ended) == ([], [])
    assert (tree.directories("old")["unified"] / "io.max").read_text() == "7:3 rbps=1000 wbps=1000 riops=max wiops=max"


def test_sandbox_that_cannot_be_bounded_is_ended(tree: CgroupTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller is asked for, and still does not come (I7)."""
    monkeypatch.setattr(OlderTree, "enable_controllers", lambda _self: None)
    ended = list[str]()
    rates = DiskRates(Rates(1000, None), tree, lambda _event, _fields: None)
    rates.bound("old", 3, lambda: ended.append("old"))
    rates.close()
    assert ended == ["old"]
