"""Registers builds: clients' builds before they are started, and snapshots, which are builds of this server's own making."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.requests import BuildSettings, NewBuild, RegisteredBuild, sized_build
from cloister.control.names import DEFAULT_TAG, Reference, clean_tags, parse_new_name
from cloister.control.templates import Templates
from cloister.errors import AlreadyExistsError, InvalidRequestError, PermissionDeniedError, QuotaExceededError
from cloister.ids import new_template_id
from cloister.model.build import Build, BuildStatus
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate, TemplateKind
from cloister.store.templates import TemplateStore

__all__ = ["BuildRegistration", "SnapshotBuilds"]

_log = structlog.get_logger("cloister.control")


class BuildRegistration:
    """Adds rows of builds, and of their templates."""

    def __init__(self, rows: TemplateStore, templates: Templates, ends: BuildEnds, settings: BuildSettings) -> None:
        self._rows = rows
        self._templates = templates
        self._ends = ends
        self._settings = settings

    async def register(self, team: Team, new: NewBuild) -> RegisteredBuild:
        """Register a build of the template of that name. A team without such a template gets a new one.

        Raises:
            InvalidRequestError, PermissionDeniedError (the name is the server's), QuotaExceededError.
        """
        reference = parse_new_name(new.name)
        tags = tuple(clean_tags([*([reference.tag] if reference.tag else []), *new.tags])) or (DEFAULT_TAG,)
        now = time.time()
        build = sized_build(new, self._settings, now)
        if len([one for one in await self._rows.list_unfinished_builds(team.team_id) if one.started_at]) >= self._settings.max_builds:
            raise QuotaExceededError(
                f"you have reached the maximum number of concurrent template builds ({self._settings.max_builds})",
                hint="wait for some to end, or cancel them",
            )
        template = await self.template_for(team, reference, TemplateKind.TEMPLATE)
        await self._ends.supersede(template, tags, build.build_id, started=False)
        build = replace(build, template_id=template.template_id)
        await self._rows.add_build(build, tags, now)
        _log.info("build.requested", team_id=team.team_id, template_id=template.template_id, build_id=build.build_id)
        return RegisteredBuild(template=template, namespace=await self._templates.namespace(team), build=build, tags=tags)

    async def template_for(self, team: Team, reference: Reference | None, kind: TemplateKind) -> OwnedTemplate:
        """The team's template of that name; a new one if there is none, or no name.

        Raises:
            InvalidRequestError (another team's namespace), PermissionDeniedError (the name is the server's), QuotaExceededError.
        """
        if reference is not None:
            namespace = await self._templates.namespace(team)
            if reference.namespace not in (None, namespace):
                raise InvalidRequestError(f"namespace '{reference.namespace}' must match your team '{namespace}'")
            if await self._templates.find_stock(reference.name) is not None:
                raise PermissionDeniedError(
                    f"Alias '{reference.name}' already used, by a template of this server", hint="choose another name"
                )
            if (found := await self._rows.find_named_template(team.team_id, reference.name)) is not None:
                return found
        most = self._settings.max_templates
        if await self._rows.count_templates(team.team_id) >= most:
            raise QuotaExceededError(f"the team has {most} templates and snapshots, which is its limit", hint="delete some")
        return await self._add_template(team, None if reference is None else reference.name, kind)

    async def _add_template(self, team: Team, name: str | None, kind: TemplateKind) -> OwnedTemplate:
        now = time.time()
        template = OwnedTemplate(template_id=new_template_id(), team_id=team.team_id, name=name, kind=kind, created_at=now, updated_at=now)
        try:
            await self._rows.add_template(template)
        except AlreadyExistsError:  # another request of the team has just made it
            found = None if name is None else await self._rows.find_named_template(team.team_id, name)
            if found is None:
                raise
            return found
        return template


class SnapshotBuilds:
    """The builds of snapshots. This process brings each of them to its end; after its death the next one does."""

    def __init__(self, rows: TemplateStore, ends: BuildEnds) -> None:
        self._rows = rows
        self._ends = ends
        self._held: set[str] = set()

    def is_held(self, build_id: str) -> bool:
        """Whether this process is making the build, or sandboxes of it, now."""
        return build_id in self._held

    @contextmanager
    def hold(self, build_id: str) -> Iterator[None]:
        """Let nothing end or drop the build for the time of the block. It begins before the row is added."""
        self._held.add(build_id)
        try:
            yield
        finally:
            self._held.discard(build_id)

    async def add(self, build: Build, tag: str, now: float) -> None:
        """Add the row of a snapshot that begins."""
        await self._rows.add_build(build, [tag], now)

    async def add_capture(self, build: Build, team_id: str, now: float) -> None:
        """Add the row of a capture that begins: a build that no client can reach. It goes when no sandbox stands on it."""
        await self._rows.add_capture(build, team_id, now)

    async def finish(self, build_id: str, fault: str | None) -> None:
        """End the build; ``fault`` says why the snapshot failed. A failed snapshot without a name leaves no template."""
        await self._ends.finish(build_id, BuildStatus.READY if fault is None else BuildStatus.ERROR, fault or "", None)
        if fault is not None and (build := await self._rows.find_build(build_id)) is not None:
            template = await self._rows.find_template(build.template_id)
            if template is not None and template.name is None:
                await self._rows.delete_template(template.template_id, time.time())
