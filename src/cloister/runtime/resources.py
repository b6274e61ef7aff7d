"""The resources that all runtimes of a node share. The node makes them, hands them to each runtime, and removes them at the end.

Runs in: supervisor and builds. Needs: nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloister.disks.rates import DiskRates
from cloister.disks.ready import Disks
from cloister.disks.space import DiskSpace
from cloister.disks.volumes import VolumeDisks
from cloister.errors import IsolationError, RuntimeFailedError
from cloister.linux.treelocks import TreeLocks
from cloister.network.slots import NetworkNode
from cloister.runtime.blocks import Blocks
from cloister.runtime.groups import Groups

__all__ = ["DiskCheck", "NodeResources"]


class DiskCheck:
    """Checks and repairs a sandbox's disk that was not closed whole: by the runtime that can run a checker in a sandbox of its own."""

    def __init__(self) -> None:
        self._check: Callable[[Path], str] | None = None

    def offer(self, check: Callable[[Path], str]) -> None:
        """Let disks be checked by this function, which gives the end of the report. Raises: as ``check``."""
        self._check = check

    def __call__(self, image: Path) -> str:
        """Check a disk that is attached nowhere. Raises: RuntimeFailedError (it cannot be repaired, or no runtime can check it)."""
        if self._check is None:
            raise RuntimeFailedError("a disk was not closed whole, and no runtime of this node can check it")
        return self._check(image)


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """The shared resources of one node. A runtime takes from them what its sandboxes need, and gives back only that."""

    run_dir: Path
    """For sockets and notes; a runtime makes directories of its own in it."""
    store_dir: Path
    """Template layers, and programs that all servers of the host share."""
    data_dir: Path
    """``<data>/node``, for files; a runtime makes directories of its own in it."""
    blocks: Blocks
    """Host ids and network slots."""
    groups: Groups
    network: NetworkNode
    tree_locks: TreeLocks
    """Directories that must stay while sandboxes use them."""
    disks: Disks
    space: DiskSpace
    rates: DiskRates
    volumes: VolumeDisks
    disk_check: DiskCheck = field(default_factory=DiskCheck)
    tell: Callable[[str, Mapping[str, object]], None]
    """Logs an event with its fields; from any thread."""

    def hold(self, trees: Iterable[Path]) -> None:
        """Hold the directories that a sandbox stands on; ``tree_locks.unlock`` is to follow. Raises: IsolationError, when one is gone."""
        try:
            self.tree_locks.lock(trees)
        except OSError as error:
            raise IsolationError(f"a layer of the template is gone: {error}", step="layers", path=str(error.filename)) from error
