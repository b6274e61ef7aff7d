"""Status and log of a build, for the client that follows it. The node has the log; the row has the end."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.cluster.base import NodeClient
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.requests import BuildStatusView
from cloister.control.builds.starting import BuildStarter
from cloister.errors import NotFoundError, UnavailableError
from cloister.model.build import Build, BuildLogEntry, BuildReport, BuildStatus
from cloister.nodewire.requests import ReportBuild

__all__ = ["BuildFollower"]

_TAIL = 20
_PAGE = 1000


class BuildFollower:
    """Asks the node how builds go, and stores the answer."""

    def __init__(self, node: NodeClient, ends: BuildEnds, starter: BuildStarter) -> None:
        self._node = node
        self._ends = ends
        self._starter = starter

    async def status(self, build: Build, *, offset: int, limit: int, levels: Sequence[str]) -> BuildStatusView:
        """The status, and at most ``limit`` log entries from number ``offset`` on. Non-empty ``levels`` select entries first."""
        report = await self._ask(build, offset, 0 if levels else limit)
        if report is None:
            return BuildStatusView(build=build, entries=())
        build = await self._ends.take_over(build, report)
        entries: Sequence[BuildLogEntry] = report.entries
        if levels:
            entries = [entry for entry in await self.log(build) if entry.level in levels][offset : offset + limit]
        tail: Sequence[BuildLogEntry] = ()
        if build.status is BuildStatus.ERROR and report.total:
            last = await self._node.report_build(ReportBuild(build.build_id, max(0, report.total - _PAGE), _PAGE))
            tail = [entry for entry in last.entries if build.step is None or entry.step == build.step][-_TAIL:]
        return BuildStatusView(build=build, entries=entries, tail=tail)

    async def log(self, build: Build) -> Sequence[BuildLogEntry]:
        """The whole log, oldest entry first."""
        entries: list[BuildLogEntry] = []
        while (report := await self._ask(build, len(entries), _PAGE)) is not None and report.entries:
            entries.extend(report.entries)
        return entries

    async def _ask(self, build: Build, offset: int, limit: int) -> BuildReport | None:
        """The node's report. None: the node does not know the build, or is away while the build runs."""
        if build.started_at is None or self._starter.is_starting(build.build_id):
            return None
        try:
            return await self._node.report_build(ReportBuild(build.build_id, offset, limit))
        except NotFoundError:
            return None
        except UnavailableError:
            if build.status.is_final:
                raise
            return None
