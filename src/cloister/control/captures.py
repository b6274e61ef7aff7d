"""Captures of sandboxes: the node stores what a running sandbox's disk holds now, as a build. Snapshots and forks are made of them.

The row is written before the node begins. If the node's answer is lost, the reconciliation ends and drops the build.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cloister.cluster.base import NodeClient
from cloister.control.builds.registering import SnapshotBuilds
from cloister.control.sandboxes import Sandboxes
from cloister.errors import CloisterError, ConflictError
from cloister.ids import new_build_id
from cloister.model.build import Build, BuildStatus
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.nodewire.requests import TakeSnapshot

__all__ = ["Captures", "build_of"]

_FIRST_RUNTIME = "namespace"
"""The runtime of sandboxes whose rows do not name one."""


class Captures:
    """Takes captures, one at a time of each sandbox."""

    def __init__(self, node: NodeClient, builds: SnapshotBuilds, sandboxes: Sandboxes) -> None:
        self._node = node
        self._builds = builds
        self._sandboxes = sandboxes

    async def can_keep_memory(self, row: Sandbox) -> bool:
        """Whether a capture of this sandbox can have its memory and its processes too. Raises: UnavailableError."""
        runtime = row.runtime or _FIRST_RUNTIME
        return runtime in (await self._node.ping()).saves_memory

    def find_source(self, team_id: str, sandbox_id: str) -> Sandbox:
        """The team's sandbox, which runs. Raises: ConflictError (it is paused, or about to be), SandboxNotFoundError."""
        row = self._sandboxes.get(team_id, sandbox_id)
        if row.state is not SandboxState.RUNNING:
            raise ConflictError(f"sandbox {sandbox_id} is {row.state}, and only a running one can be captured", hint="resume it first")
        return row

    def find_running(self, team_id: str, sandbox_id: str) -> Sandbox:
        """The same for a snapshot, for which a paused sandbox is none, as for the official service."""
        return self._sandboxes.running(team_id, sandbox_id)

    @contextmanager
    def source(self, team_id: str, sandbox_id: str) -> Iterator[Sandbox]:
        """As :meth:`find_source`; in the block nothing else captures, pauses or kills it. Raises also: ConflictError (it is captured)."""
        row = self.find_source(team_id, sandbox_id)
        with self._sandboxes.standstills.one(sandbox_id):
            yield row

    async def note_checkpoint(self, sandbox_id: str, snapshot_id: str) -> None:
        """Tell of a snapshot by a lifecycle event of the sandbox."""
        await self._sandboxes.note_checkpoint(sandbox_id, snapshot_id)

    async def take(self, build: Build, ask: TakeSnapshot) -> None:
        """Have the node make ``build``, whose row is there. Its row says how it ended, also when this raises. Raises: as the node does."""
        try:
            await self._node.snapshot(ask)
        except CloisterError as error:
            await self._builds.finish(build.build_id, str(error))
            raise
        except BaseException:
            await self._builds.finish(build.build_id, "internal error of the server")
            raise
        await self._builds.finish(build.build_id, None)


def build_of(row: Sandbox, template_id: str, build_id: str | None = None) -> Build:
    """The row of a capture that begins now; None: a new build id."""
    now = time.time()
    return Build(
        build_id=build_id or new_build_id(),
        template_id=template_id,
        status=BuildStatus.BUILDING,
        created_at=now,
        updated_at=now,
        started_at=now,
        cpu_count=row.cpu_count,
        mem_mib=row.mem_mib,
        disk_mib=row.disk_mib,
        sandbox_id=row.sandbox_id,
        node_id=row.node_id,
    )
