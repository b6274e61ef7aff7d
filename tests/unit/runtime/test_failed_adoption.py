"""A sandbox of an earlier supervisor that cannot be taken over, with a process that plays it and resources that are only names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.linux.cgroup import _TreeV2
from cloister.linux.process import start_ticks
from cloister.model.resources import Limits
from cloister.runtime.groups import Groups
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.namespace.zone import Slot
from cloister.runtime.spec import SandboxSpec, Sharing


class Tree(_TreeV2):
    """Groups that are directories without the kernel's files."""

    def end(self, name: str) -> None:
        """Its processes are gone."""
        self.remove(name)

    def enable_controllers(self) -> None:
        """There are none."""


class Locks:
    """Directories of which one has just been removed."""

    def lock(self, _trees: Iterable[Path]) -> None:
        """It is gone."""
        raise FileNotFoundError(2, "it has just been removed", "/layer")


@pytest.fixture
def sandbox() -> Iterator[subprocess.Popen[bytes]]:
    """A process that would live on."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_it_is_ended_and_its_group_is_left_to_the_sweep(tmp_path: Path, sandbox: subprocess.Popen[bytes]) -> None:
    """A claim on its group would let what is left in the group live for ever. It may use no swap, also if the supervisor died meanwhile."""
    groups = Groups(Tree(1, tmp_path))
    groups.tree.create("s", None)
    swap = groups.tree.directories("s")["unified"] / "memory.swap.max"
    swap.write_text("max")
    freed: list[Any] = []
    slot = Slot(0, 1)
    network = SimpleNamespace(attach=lambda *_, **__: None, release=freed.append)
    runtime = NamespaceRuntime.__new__(NamespaceRuntime)
    runtime._resources = cast("Any", SimpleNamespace(network=network, tree_locks=Locks(), volumes=SimpleNamespace(let_go=lambda _: None)))
    runtime._groups = groups.of("namespace")
    runtime._zones = cast("Any", SimpleNamespace(hold_slot=lambda *_: (SimpleNamespace(free=freed.append), slot)))
    spec = SandboxSpec(sandbox_id="s", sharing=Sharing(key=""), directory=tmp_path, layers=(), agent=None, limits=Limits())
    with pytest.raises(FileNotFoundError, match="just been removed"):
        runtime.adopt(spec, {"pid": sandbox.pid, "start_ticks": start_ticks(sandbox.pid), "zone": 0, "slot": 1, "trees": ["/"]})
    assert sandbox.wait(10) == -9
    assert swap.read_text() == "0"
    swap.unlink()
    assert freed == [slot.index, slot]
    assert groups.sweep(set, lambda *_: None) == ["control group s"]
