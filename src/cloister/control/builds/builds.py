"""All use cases about clients' template builds, put together."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.cluster.base import Fleet
from cloister.control.builds.background import BackgroundTasks
from cloister.control.builds.deleting import TemplateDeletion
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.following import BuildFollower
from cloister.control.builds.garbage import BuildGarbage
from cloister.control.builds.reconciling import BuildReconciliation
from cloister.control.builds.registering import BuildRegistration, SnapshotBuilds
from cloister.control.builds.requests import BuildPlan, BuildSettings, BuildStatusView
from cloister.control.builds.starting import BuildStarter
from cloister.control.templates import Templates
from cloister.control.uploads import NeededUploads, Uploads
from cloister.errors import ConflictError, NotFoundError
from cloister.model.build import Build, BuildLogEntry
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate
from cloister.store.base import Store

__all__ = ["Builds"]


class Builds:
    """The parts, and the use cases that begin with a team's build."""

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        templates: Templates,
        uploads: Uploads,
        needed_uploads: NeededUploads,
        settings: BuildSettings,
    ) -> None:
        """``needed_uploads`` is the one that ``uploads`` asks."""
        rows, node = store.templates, fleet.calls
        self._rows = rows
        self._templates = templates
        self._needed_uploads = needed_uploads
        self._background = BackgroundTasks()
        self.ends = BuildEnds(node, rows, needed_uploads, self._background)
        self.registration = BuildRegistration(rows, templates, self.ends, settings)
        self.snapshots = SnapshotBuilds(rows, self.ends)
        self._starter = BuildStarter(fleet, rows, templates, uploads, needed_uploads, self.ends)
        self._follower = BuildFollower(node, self.ends, self._starter)
        self.garbage = BuildGarbage(fleet, rows, self.ends, self._starter, self.snapshots, uploads)
        self.reconciliation = BuildReconciliation(rows, self._starter, self.snapshots, self.ends, self.garbage)
        self.deletion = TemplateDeletion(rows, templates, self.ends, self.garbage, self._background)

    async def load(self) -> None:
        """Read which uploads are needed. To be called once, before anything else."""
        for build in await self._rows.list_unfinished_builds():
            template = await self._rows.find_template(build.template_id)
            if template is not None:
                self._needed_uploads.add(build.build_id, template.team_id, build.uploads)

    async def close(self) -> None:
        """Stop builds that are being started, and wait for what is being written."""
        await self._starter.close()
        await self._background.wait()

    async def start(self, team: Team, template: str, build_id: str, plan: BuildPlan) -> None:
        """See :meth:`BuildStarter.start`. Raises: also as :meth:`_find`."""
        row, build = await self._find(team, template, build_id)
        await self._starter.start(row, build, plan)

    async def status(self, team: Team, template: str, build_id: str, *, offset: int, limit: int, levels: Sequence[str]) -> BuildStatusView:
        """See :meth:`BuildFollower.status`. Raises: as :meth:`_find`."""
        _, build = await self._find(team, template, build_id)
        return await self._follower.status(build, offset=offset, limit=limit, levels=levels)

    async def log(self, team: Team, template: str, build_id: str) -> Sequence[BuildLogEntry]:
        """See :meth:`BuildFollower.log`. Raises: as :meth:`_find`."""
        _, build = await self._find(team, template, build_id)
        return await self._follower.log(build)

    async def cancel(self, team: Team, template: str, build_id: str) -> None:
        """End an unfinished build.

        Raises:
            ConflictError: it has ended; and as :meth:`_find`.
        """
        _, build = await self._find(team, template, build_id)
        if build.status.is_final:
            raise ConflictError(f"build '{build_id}' has ended already")
        await self.ends.abort(build, "the build was cancelled")

    async def _find(self, team: Team, template: str, build_id: str) -> tuple[OwnedTemplate, Build]:
        """A build of the team.

        Raises:
            TemplateNotFoundError, PermissionDeniedError: see :meth:`Templates.find_own`.
            NotFoundError: the template has no such build.
        """
        row, _ = await self._templates.find_own(team, template)
        build = await self._rows.find_build(build_id.lower())
        if build is None or build.template_id != row.template_id:
            raise NotFoundError(f"build '{build_id[:64]}' not found")
        return row, build
