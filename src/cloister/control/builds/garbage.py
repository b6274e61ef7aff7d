"""Removes builds that no client can reach any more, and uploads that no build needs."""

from __future__ import annotations

import time

import structlog

from cloister.cluster.base import Fleet, NodeClient
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.registering import SnapshotBuilds
from cloister.control.builds.starting import BuildStarter
from cloister.control.uploads import Uploads
from cloister.errors import CloisterError
from cloister.model.build import BuildStatus
from cloister.nodewire.requests import BuildRef
from cloister.store.templates import TemplateStore

__all__ = ["BuildGarbage"]

_log = structlog.get_logger("cloister.control")
_UNSTARTED_S = 86_400.0
_KEPT_S = 86_400.0


class BuildGarbage:
    """Deletes rows only after the node has dropped the build."""

    def __init__(
        self, fleet: Fleet, rows: TemplateStore, ends: BuildEnds, starter: BuildStarter, snapshots: SnapshotBuilds, uploads: Uploads
    ) -> None:
        self._fleet = fleet
        self._rows = rows
        self._ends = ends
        self._starter = starter
        self._snapshots = snapshots
        self._uploads = uploads

    async def prune(self) -> None:
        """End builds that never started and builds of lost nodes, drop unreachable builds, and remove old uploads.

        Raises: NodeUnreachableError, after what needs no node is done.
        """
        oldest = time.time() - _UNSTARTED_S
        unfinished = await self._rows.list_unfinished_builds()
        for build in unfinished:
            if build.started_at is None and build.created_at < oldest:
                message = "the build was requested and not started within a day"
                await self._ends.finish(build.build_id, BuildStatus.ERROR, message, None)
        await self._uploads.prune()
        nodes = await self._fleet.each()
        known = {None, *(node_id for node_id, _ in nodes)}
        for build in unfinished:
            if build.started_at is not None and build.node_id not in known and build.updated_at < oldest:
                message = "the node of the build did not report for a day"
                await self._ends.finish(build.build_id, BuildStatus.ERROR, message, None)
        for node_id, node in nodes:
            await self.drop_unreachable(node, node_id)

    async def drop_unreachable(self, node: NodeClient, node_id: str) -> None:
        """Have the node drop its builds that no client can reach, then delete their rows and those of deleted templates."""
        for build in await self._rows.list_unwanted_builds(time.time() - _KEPT_S):
            if build.node_id not in (None, node_id):
                continue
            if self._starter.is_starting(build.build_id) or self._snapshots.is_held(build.build_id):
                continue
            await node.cancel_build(BuildRef(build.build_id))
            await node.drop_build(BuildRef(build.build_id))
            await self._rows.forget_build(build.build_id)
            _log.info("build.dropped", build_id=build.build_id, template_id=build.template_id)
        await self._rows.forget_deleted_templates()

    async def drop_unreachable_quietly(self) -> None:
        """As :meth:`drop_unreachable`, for a background task: a failure is logged, and :meth:`prune` tries again."""
        try:
            for node_id, node in await self._fleet.each():
                await self.drop_unreachable(node, node_id)
        except CloisterError as error:
            _log.warning("build.drop_deferred", error=str(error))
