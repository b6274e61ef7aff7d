"""The node protocol's methods about volumes. A volume is on disk here (``disks/volumes.py``); names and owners are the control plane's.

Event loop only. Invariants: a volume that a sandbox has, running or paused, is not deleted. A slow volume, or a long copy, holds up no
other part of the node: their threads are their own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from cloister.disks.volumes import VolumeDisks
from cloister.errors import ConflictError, NotFoundError, UnavailableError
from cloister.model.sandbox import SandboxRecord
from cloister.model.volume import VolumeUse
from cloister.node.background import WorkerThreads
from cloister.node.volume_contents import VolumeContents
from cloister.nodewire.requests import CopyVolume, DialVolume, MakeVolume, VolumeRef

__all__ = ["NodeVolumes"]

_log = structlog.get_logger("cloister.node")
_SHOWN = 5
_THREADS, _COPIES = 8, 4


class NodeVolumes:
    """Implements :class:`~cloister.nodewire.methods.VolumeMethods`, where each method is described."""

    def __init__(self, disks: VolumeDisks, contents: VolumeContents, records: Callable[[], Sequence[SandboxRecord]]) -> None:
        """``records`` gives the sandboxes that have not ended, paused ones too."""
        self._disks = disks
        self._contents = contents
        self._records = records
        self._threads = WorkerThreads(_THREADS, "volumes")
        self._copiers = WorkerThreads(_COPIES, "volume-copies")

    def open(self) -> None:
        """Before any request. Raises: OSError."""
        self._contents.open()

    def close(self) -> None:
        """End the processes and wait for the work under way, a copy too. Blocks."""
        try:
            self._contents.close()
        except UnavailableError as error:  # the sweep of the next start ends it
            _log.warning("volume.content_not_ended", error=str(error))
        for threads in (self._threads, self._copiers):
            threads.close(cancel_waiting=True)

    async def make_volume(self, request: MakeVolume) -> None:
        """See :class:`VolumeMethods`."""
        await self._threads.run(partial(self._disks.make, request.volume_id, request.size_mib, request.inodes))

    async def copy_volume(self, request: CopyVolume) -> None:
        """See :class:`VolumeMethods`."""
        await self._copiers.run(partial(self._disks.copy, request.volume_id, request.target_id))

    async def delete_volume(self, request: VolumeRef) -> bool:
        """See :class:`VolumeMethods`."""
        holders = self._holders(request.volume_id)
        if holders:
            named = ", ".join(holders[:_SHOWN]) + (f" and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else "")
            raise ConflictError(f"the volume is in use by {named}", hint="kill these sandboxes first; paused ones count too")
        await self._threads.run(partial(self._contents.end, request.volume_id))
        is_removed = await self._threads.run(partial(self._disks.remove, request.volume_id))
        if is_removed:
            _log.info("volume.removed", volume_id=request.volume_id)
        return is_removed

    async def volumes(self) -> Sequence[VolumeUse]:
        """See :class:`VolumeMethods`."""
        return await self._threads.run(self._measure)

    async def dial_volume(self, request: DialVolume) -> socket.socket:
        """See :class:`VolumeMethods`."""
        return await self._threads.run(partial(self._contents.dial, request.volume_id, request.team_id))

    def _holders(self, volume_id: str) -> list[str]:
        return sorted(record.sandbox_id for record in self._records() if any(one.volume_id == volume_id for one in record.volumes))

    def _measure(self) -> list[VolumeUse]:
        """Runs in: a worker thread."""
        found = []
        for volume_id in self._disks.ids():
            try:
                filling = self._disks.filling(volume_id)
            except NotFoundError:  # removed meanwhile
                continue
            sandboxes = len(self._holders(volume_id))
            use = VolumeUse(volume_id=volume_id, size_bytes=filling.size, used_bytes=filling.used, files=filling.files, sandboxes=sandboxes)
            found.append(use)
        return found
