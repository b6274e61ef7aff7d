"""Ends what exceeds the host's disk or kernel memory: a sandbox, or a group of processes that belongs to no live sandbox (I6).

The guards (``diskguard.py``, ``kernelguard.py``) choose whom to end.
"""

from __future__ import annotations

from cloister.disks.space import DiskSpace
from cloister.linux.cgroup import CgroupTree
from cloister.model.sandbox import EndReason
from cloister.node.background import WorkerThreads
from cloister.node.live import LiveSandboxes

__all__ = ["Eviction"]


class Eviction:
    """Event loop only."""

    def __init__(self, live: LiveSandboxes, space: DiskSpace, groups: CgroupTree, threads: WorkerThreads) -> None:
        self._live = live
        self._space = space
        self._groups = groups
        self._threads = threads

    async def for_space(self, sandbox_id: str) -> None:
        """End the sandbox that fills the disk. A sandbox of a build, or one that is made ahead, ends as if by itself."""
        if not await self._live.end(sandbox_id, EndReason.NO_SPACE):
            await self._threads.run(lambda: self._space.end(sandbox_id))

    async def for_kernel_memory(self, group: str) -> None:
        """End the processes of a control group: a sandbox's, or others, which end as if by themselves."""
        if not await self._live.end(group, EndReason.KERNEL_MEMORY):
            await self._threads.run(lambda: self._groups.kill_all(group))
