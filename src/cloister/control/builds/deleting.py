"""Deletes templates and tags of a team."""

from __future__ import annotations

import time

import structlog

from cloister.control.builds.background import BackgroundTasks
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.garbage import BuildGarbage
from cloister.control.names import Reference, parse_reference
from cloister.control.templates import Templates
from cloister.errors import InvalidRequestError, PermissionDeniedError, TemplateNotFoundError
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate
from cloister.store.templates import TemplateStore

__all__ = ["TemplateDeletion"]

_log = structlog.get_logger("cloister.control")


class TemplateDeletion:
    """The use case of ``DELETE /templates/{id}``."""

    def __init__(
        self, rows: TemplateStore, templates: Templates, ends: BuildEnds, garbage: BuildGarbage, background: BackgroundTasks
    ) -> None:
        self._rows = rows
        self._templates = templates
        self._ends = ends
        self._garbage = garbage
        self._background = background

    async def delete(self, team: Team, text: str) -> None:
        """Delete a template. ``name:tag`` removes only the tag while the template has others.

        Running builds end. Sandboxes of other teams go on, and those of a removed tag.

        Raises:
            TemplateNotFoundError: see :meth:`Templates.find_own`.
            PermissionDeniedError: it is the server's, or another team's public one.
            InvalidRequestError: the team has a running or paused sandbox of it.
        """
        template, reference = await self._find(team, text)
        if reference.tag is not None:
            tags = {one.tag for one in await self._rows.list_tags(template.template_id)}
            if reference.tag not in tags:
                raise TemplateNotFoundError(f"tag '{reference.tag}' does not exist for template '{reference.name}'")
            if tags != {reference.tag}:
                await self._rows.remove_tags(template.template_id, [reference.tag])
                return
        if await self._rows.has_sandboxes(template):
            message = f"cannot delete template '{template.template_id}' because there are running or paused sandboxes using it"
            raise InvalidRequestError(message, hint="kill them first")
        for build in await self._rows.list_builds(template.template_id):
            if not build.status.is_final:
                await self._ends.abort(build, "its template was deleted")
        if await self._rows.delete_template(template.template_id, time.time()):
            _log.info("template.deleted", template_id=template.template_id, team_id=template.team_id)
        self._background.run(self._garbage.drop_unreachable_quietly())

    async def delete_of_removed(self, team_id: str) -> None:
        """End the builds of a removed team, whose templates are deleted already, and drop what the node has of them."""
        for build in await self._rows.list_unfinished_builds(team_id):
            await self._ends.abort(build, "its team was removed")
        self._background.run(self._garbage.drop_unreachable_quietly())

    async def _find(self, team: Team, text: str) -> tuple[OwnedTemplate, Reference]:
        try:
            return await self._templates.find_own(team, text)
        except TemplateNotFoundError:
            reference = parse_reference(text)
            if reference is None or await self._templates.find_row(team.team_id, reference) is None:
                raise
            raise PermissionDeniedError(f"template '{reference}' is another team's") from None
