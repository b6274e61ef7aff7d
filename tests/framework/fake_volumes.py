"""The volumes of a fake node: directories, whose content the real program serves, in this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from cloister.agent.volume.app import make_app
from cloister.agent.volume.tree import Tree
from cloister.errors import CloisterError, ConflictError, NotFoundError
from cloister.model.volume import VolumeUse
from cloister.nodewire.requests import CopyVolume, DialVolume, MakeVolume, VolumeRef

__all__ = ["FakeVolumes"]


class FakeVolumes:
    """A :class:`~cloister.nodewire.methods.VolumeMethods`."""

    def __init__(self) -> None:
        self.volume_fault: CloisterError | None = None
        self.volumes_in_use: set[str] = set()
        self.sizes_mib: dict[str, int] = {}
        self._volumes_dir: Path | None = None
        self._runners: list[web.AppRunner] = []

    def volume_at(self, volume_id: str) -> Path:
        """The directory of a volume."""
        if self._volumes_dir is None:
            self._volumes_dir = Path(tempfile.mkdtemp(prefix="cloister-fake-volumes-"))
        return self._volumes_dir / volume_id

    async def close_volumes(self) -> None:
        """Remove them all."""
        for runner in self._runners:
            await runner.cleanup()
        if self._volumes_dir is not None:
            shutil.rmtree(self._volumes_dir)

    async def make_volume(self, request: MakeVolume) -> None:
        """See VolumeMethods."""
        if self.volume_fault is not None:
            raise self.volume_fault
        self.volume_at(request.volume_id).mkdir(mode=0o777, exist_ok=True)
        self.sizes_mib[request.volume_id] = request.size_mib

    async def copy_volume(self, request: CopyVolume) -> None:
        """See VolumeMethods."""
        shutil.copytree(self.volume_at(request.volume_id), self.volume_at(request.target_id))

    async def delete_volume(self, request: VolumeRef) -> bool:
        """See VolumeMethods."""
        if request.volume_id in self.volumes_in_use:
            raise ConflictError("the volume is in use by a sandbox")
        place = self.volume_at(request.volume_id)
        if not place.is_dir():
            return False
        shutil.rmtree(place)
        return True

    async def volumes(self) -> Sequence[VolumeUse]:
        """See VolumeMethods."""
        return [
            VolumeUse(volume_id=one, size_bytes=size << 20, used_bytes=0, files=0, sandboxes=int(one in self.volumes_in_use))
            for one, size in self.sizes_mib.items()
        ]

    async def dial_volume(self, request: DialVolume) -> socket.socket:
        """See VolumeMethods."""
        place = self.volume_at(request.volume_id)
        if not place.is_dir():
            raise NotFoundError("the volume's data is not on this node")
        runner = web.AppRunner(make_app(Tree(os.open(place, os.O_RDONLY | os.O_DIRECTORY))), auto_decompress=False)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(runner.server, theirs)
        return ours
