"""How builds end: the row gets its final status once, and the node cancels what it still runs.

Invariant: an ended row does not change any more. The node's report decides how a build went.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.builds.background import BackgroundTasks
from cloister.control.uploads import NeededUploads
from cloister.errors import UnavailableError
from cloister.model.build import Build, BuildReport, BuildStatus, EndedBuild
from cloister.model.template import OwnedTemplate
from cloister.nodewire.requests import BuildRef
from cloister.store.templates import TemplateStore

__all__ = ["BuildEnds"]

_log = structlog.get_logger("cloister.control")
_SUPERSEDED = "The build was canceled because it was superseded by a newer one."
_MAX_MESSAGE = 10_000


class BuildEnds:
    """Ends builds in the store, and at the node."""

    def __init__(self, node: NodeClient, rows: TemplateStore, needed_uploads: NeededUploads, background: BackgroundTasks) -> None:
        self._node = node
        self._rows = rows
        self._needed_uploads = needed_uploads
        self._background = background
        self._to_cancel: set[str] = set()
        """Builds that the node has not heard to be cancelled."""

    async def finish(self, build_id: str, status: BuildStatus, message: str, step: str | None) -> Build | None:
        """Store how a build ended, unless it has ended before. Returns the build."""
        while True:
            build = await self._rows.find_build(build_id)
            if build is None or build.status.is_final:
                return build
            now = time.time()
            text = message[:_MAX_MESSAGE].encode("utf-8", "replace").decode()  # it may quote bytes that no database takes
            ended = replace(build, status=status, message=text, step=step, updated_at=now, finished_at=now, version=build.version + 1)
            if await self._rows.change_build(ended, expected_version=build.version):
                self._needed_uploads.forget(build_id)
                _log.info("build.ended", build_id=build_id, template_id=build.template_id, status=status, step=step)
                return ended

    async def take_over(self, build: Build, report: BuildReport) -> Build:
        """Store what the node reports. Returns the build as it is then."""
        if build.status.is_final:
            return build
        if report.status.is_final:
            return await self.finish(build.build_id, report.status, report.message, report.step) or build
        if report.status is build.status:
            return build
        going = replace(build, status=report.status, updated_at=time.time(), version=build.version + 1)
        await self._rows.change_build(going, expected_version=build.version)  # a concurrent change is newer than this one
        return going

    def ended(self, event: EndedBuild) -> None:
        """Take note of the node's event that a build ended."""
        self._background.run(self.finish(event.build_id, event.status, event.message, event.step))

    async def abort(self, build: Build, why: str) -> None:
        """End the build with an error, and have the node cancel it."""
        await self.finish(build.build_id, BuildStatus.ERROR, why, None)
        if build.started_at is not None:
            self._to_cancel.add(build.build_id)
            self._background.run(self._cancel_at_node(self._node, build.build_id))

    async def supersede(self, template: OwnedTemplate, tags: Sequence[str], build_id: str, *, started: bool) -> None:
        """End other unfinished builds of the template that would get one of the tags."""
        for build in await self._rows.list_builds(template.template_id):
            if build.status.is_final or build.build_id == build_id or (build.started_at is not None) != started:
                continue
            if set(tags) & set(await self._rows.list_build_tags(build.build_id)):
                await self.abort(build, _SUPERSEDED)

    async def cancel_again(self, node: NodeClient, node_id: str) -> None:
        """Cancel what the node did not hear of while it was away."""
        for build_id in tuple(self._to_cancel):
            build = await self._rows.find_build(build_id)
            if build is not None and build.node_id not in (None, node_id):
                continue
            await self._cancel_at_node(node, build_id)

    async def _cancel_at_node(self, node: NodeClient, build_id: str) -> None:
        try:
            await node.cancel_build(BuildRef(build_id))
        except UnavailableError as error:
            _log.warning("build.cancel_deferred", build_id=build_id, error=str(error))  # the reconciliation at its return does it
        else:
            self._to_cancel.discard(build_id)
