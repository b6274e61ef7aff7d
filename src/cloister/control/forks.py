"""Forks: new sandboxes that begin with what a running one has now. The original stands still for a moment and goes on.

One capture of the original is taken, and the copies are created from it at the same time. The capture is a build that no client can reach;
it stays as long as a sandbox stands on it. Each copy succeeds or fails by itself.
Invariant: when the client goes away, the copies that were made for it are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cloister.control.builds.registering import SnapshotBuilds
from cloister.control.captures import Captures, build_of
from cloister.control.sandboxes import NewSandbox, Sandboxes
from cloister.control.templates import FoundTemplate
from cloister.errors import CloisterError, InternalError, InvalidRequestError, SandboxNotFoundError
from cloister.ids import new_build_id, new_template_id
from cloister.model.sandbox import Sandbox
from cloister.nodewire.requests import TakeSnapshot

__all__ = ["Copy", "Forks", "NewFork"]

_log = structlog.get_logger("cloister.control")
Copy = Sandbox | CloisterError
"""The outcome of one copy."""
_NO_MEMORY = "a fork with memory needs the capability 'checkpoint', which this server does not have"
_WITHOUT_MEMORY = (
    "copies of the files work: memory: false in the body, or the header X-Fork-Memory: false, which the SDKs send for "
    "fork(api_headers={'X-Fork-Memory': 'false'}) and, in JavaScript, fork({ apiHeaders: { 'X-Fork-Memory': 'false' } })"
)


@dataclass(frozen=True, kw_only=True)
class NewFork:
    """A client's request for copies of a sandbox."""

    count: int
    timeout_s: int
    memory: bool
    """Whether the copies go on with its processes."""


class Forks:
    """The use case of ``POST /sandboxes/{id}/fork``."""

    def __init__(self, sandboxes: Sandboxes, builds: SnapshotBuilds, captures: Captures) -> None:
        self._sandboxes = sandboxes
        self._builds = builds
        self._captures = captures
        self._tasks: set[asyncio.Task[object]] = set()
        self.copies = Counter[str]()
        """Copies since the start of this process: ``done`` and ``failed``."""

    async def close(self) -> None:
        """Wait for forks under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def fork(self, team_id: str, sandbox_id: str, new: NewFork) -> Sequence[Copy]:
        """Fork a sandbox; returns an entry for each copy, in order, when all have started or failed.

        Raises, before there is any copy:
            InvalidRequestError (a number is out of bounds, or the node cannot capture memory), SandboxNotFoundError,
            ConflictError (it is paused, or captured now), NoCapacityError, UnavailableError; and the node's errors.
        """
        await self._check(team_id, new)
        row = self._captures.find_source(team_id, sandbox_id)
        if new.memory and not await self._captures.can_keep_memory(row):
            raise InvalidRequestError(_NO_MEMORY, hint=_WITHOUT_MEMORY)
        task = asyncio.create_task(self._fork(team_id, sandbox_id, new))
        self._keep(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._keep(asyncio.create_task(self._discard(team_id, task)))
            raise

    async def _check(self, team_id: str, new: NewFork) -> None:
        self._sandboxes.check_timeout(new.timeout_s)
        most = (await self._sandboxes.quotas.limits(team_id)).sandboxes
        if most is not None and new.count >= most:  # the original has a place too
            raise InvalidRequestError(f"count must be lower than the limit of a team's live sandboxes, {most}")

    def _keep(self, task: asyncio.Task[object]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fork(self, team_id: str, sandbox_id: str, new: NewFork) -> Sequence[Copy]:
        build_id = new_build_id()
        with self._builds.hold(build_id):
            row = await self._capture(team_id, sandbox_id, build_id, memory=new.memory)
            template = FoundTemplate(
                template_id=row.template_id,
                name=row.template,
                runs=build_id,
                cpu_count=row.cpu_count,
                mem_mib=row.mem_mib,
                disk_mib=row.disk_mib,
                owner_id=team_id,
                node_id=row.node_id,
            )
            copies = await asyncio.gather(*(self._copy(team_id, template, _like(row, new)) for _ in range(new.count)))
        failed = sum(isinstance(one, CloisterError) for one in copies)
        self.copies.update(done=len(copies) - failed, failed=failed)
        _log.info("sandbox.forked", sandbox_id=sandbox_id, build_id=build_id, copies=len(copies) - failed, failed=failed)
        return copies

    async def _capture(self, team_id: str, sandbox_id: str, build_id: str, *, memory: bool) -> Sandbox:
        with self._captures.source(team_id, sandbox_id) as row:
            build = build_of(row, new_template_id(), build_id)
            await self._builds.add_capture(build, team_id, build.created_at)
            ask = TakeSnapshot(sandbox_id, build_id, row.template_id, row.template, memory=memory, for_copies=True)
            await self._captures.take(build, ask)
        return row

    async def _copy(self, team_id: str, template: FoundTemplate, new: NewSandbox) -> Copy:
        try:
            return await self._sandboxes.create_copy(team_id, template, new)
        except CloisterError as error:
            return error
        except Exception:  # noqa: BLE001 - task border: the other copies are there, and the client must learn of them
            _log.exception("sandbox.copy_failed", build_id=template.runs)
            return InternalError("internal error of the server; its log has it")

    async def _discard(self, team_id: str, fork: asyncio.Task[Sequence[Copy]]) -> None:
        """Kill the copies of a fork whose client went away."""
        try:
            copies = await fork
        except CloisterError:
            return
        for copy in copies:
            if isinstance(copy, Sandbox):
                with contextlib.suppress(SandboxNotFoundError):  # it has ended by itself
                    await self._sandboxes.kill(team_id, copy.sandbox_id)


def _like(row: Sandbox, new: NewFork) -> NewSandbox:
    """The request for a copy of ``row``: with tokens of its own, and everything else that the client chose for the original."""
    return NewSandbox(
        template=row.template,
        timeout_s=new.timeout_s,
        metadata=row.metadata,
        secure=row.access_token is not None,
        egress=row.egress,
        public_traffic=row.traffic_token is None,
        network=row.network,
        lifecycle=row.lifecycle,
        volumes=row.volumes,
    )
