"""Brings the rows of unfinished builds in line with the node after a (re)connection."""

from __future__ import annotations

from cloister.cluster.base import NodeClient
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.garbage import BuildGarbage
from cloister.control.builds.registering import SnapshotBuilds
from cloister.control.builds.starting import BuildStarter
from cloister.errors import NotFoundError
from cloister.model.build import BASE_STEP, BuildStatus
from cloister.nodewire.requests import ReportBuild
from cloister.store.templates import TemplateStore

__all__ = ["BuildReconciliation"]

_CUT_OFF = "the server was restarted while the build was prepared; build again"


class BuildReconciliation:
    """Runs once for each connection to the node."""

    def __init__(
        self, rows: TemplateStore, starter: BuildStarter, snapshots: SnapshotBuilds, ends: BuildEnds, garbage: BuildGarbage
    ) -> None:
        self._rows = rows
        self._starter = starter
        self._snapshots = snapshots
        self._ends = ends
        self._garbage = garbage

    async def run(self, node: NodeClient, node_id: str) -> None:
        """Take over the node's reports, repeat cancellations, and drop unreachable builds, with calls on ``node``."""
        for build in await self._rows.list_unfinished_builds():
            build_id = build.build_id
            if build.node_id not in (None, node_id):
                continue
            if build.started_at is None or self._starter.is_starting(build_id) or self._snapshots.is_held(build_id):
                continue
            try:
                report = await node.report_build(ReportBuild(build_id, offset=0, limit=0))
            except NotFoundError:
                await self._ends.finish(build_id, BuildStatus.ERROR, _CUT_OFF, BASE_STEP)
            else:
                await self._ends.take_over(build, report)
        await self._ends.cancel_again(node, node_id)
        await self._garbage.drop_unreachable(node, node_id)
