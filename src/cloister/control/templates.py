"""Which templates there are, and which one a name in a request means.

Stock templates are the node's, for every team; the others are rows, each a team's own. Names are those of the published API: id, name,
``name:tag`` or ``namespace/name``. Invariant: another team's private template is not told apart from none (I5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.names import DEFAULT_TAG, Reference, namespace_of, parse_reference
from cloister.errors import InvalidRequestError, PermissionDeniedError, StoreError, TemplateNotFoundError
from cloister.model.build import BuildStatus
from cloister.model.template import Template
from cloister.store.base import Store, Team
from cloister.store.templates import Build, OwnedTemplate, TagAssignment

__all__ = ["DEFAULT_TAG", "FoundTemplate", "TemplateView", "Templates"]

_log = structlog.get_logger("cloister.control")


@dataclass(frozen=True, kw_only=True)
class FoundTemplate:
    """What a sandbox, or another template, can be made of."""

    template_id: str
    name: str
    """For people."""
    runs: str
    """What the node knows it by: a stock template's name or a build id."""
    cpu_count: float
    mem_mib: int
    disk_mib: int
    owner_id: str | None
    """None: it is the server's."""


@dataclass(frozen=True, kw_only=True)
class TemplateView:
    """A template of a team with its builds, newest first, and its namespace."""

    template: OwnedTemplate
    namespace: str
    builds: Sequence[Build]

    @property
    def newest(self) -> Build | None:
        """The build that describes the template: the newest that is ready, else the newest."""
        ready = (build for build in self.builds if build.status is BuildStatus.READY)
        return next(ready, self.builds[0] if self.builds else None)


class Templates:
    """The templates of one node and of the teams in one store."""

    def __init__(self, node: NodeClient, store: Store) -> None:
        self._node = node
        self._store = store
        self._rows = store.templates
        self._stock: Sequence[Template] = ()
        self._stock_by_name: dict[str, Template] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self.since = time.time()
        """When this process first knew of templates."""

    def learn(self, templates: Sequence[Template]) -> None:
        """Replace what is known of stock templates by the node's present answer."""
        self._stock = tuple(templates)
        self._stock_by_name = {
            name: template for template in templates for name in (template.template_id, template.name, *template.aliases)
        }

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def stock(self) -> Sequence[Template]:
        """All stock templates, as the node has them now."""
        self.learn(await self._node.templates())
        return self._stock

    async def find_stock(self, name: str) -> Template | None:
        """The stock template of that name or id."""
        if name not in self._stock_by_name:
            await self.stock()
        return self._stock_by_name.get(name)

    # ---- whose ----

    async def namespace(self, team: Team) -> str:
        """The team's namespace."""
        return namespace_of(team, await self._store.list_teams())

    async def _team_of(self, namespace: str) -> str | None:
        teams = await self._store.list_teams()
        return next((team.team_id for team in teams if namespace == namespace_of(team, teams)), None)

    async def find_row(self, team_id: str, reference: Reference) -> OwnedTemplate | None:
        """The template that the team means, its own or a public one, whatever its tags."""
        if reference.namespace is not None:
            owner = await self._team_of(reference.namespace)
            row = None if owner is None else await self._rows.find_named_template(owner, reference.name)
        else:
            row = await self._rows.find_named_template(team_id, reference.name) or await self._rows.find_template(reference.name)
        return row if row is not None and (row.team_id == team_id or row.public) else None

    async def find_own(self, team: Team, text: str) -> tuple[OwnedTemplate, Reference]:
        """The team's own template that ``text`` names, to be changed or looked into.

        Raises:
            TemplateNotFoundError: there is none, or it is another team's.
            PermissionDeniedError: it is the server's.
        """
        reference = parse_reference(text)
        row = None if reference is None else await self.find_row(team.team_id, reference)
        if reference is not None and row is not None and row.team_id == team.team_id:
            return row, reference
        if reference is not None and reference.namespace is None and await self.find_stock(reference.name) is not None:
            raise PermissionDeniedError(f"template '{reference.name}' is the server's and cannot be changed by the API")
        raise await self._missing(text)

    async def view(self, team: Team, text: str) -> TemplateView:
        """The team's own template that ``text`` names, with its builds. Raises: as :meth:`find_own`."""
        row, _ = await self.find_own(team, text)
        return TemplateView(template=row, namespace=await self.namespace(team), builds=await self._rows.list_builds(row.template_id))

    async def list(self, team: Team) -> list[TemplateView]:
        """The team's own templates without its snapshots, newest first."""
        namespace = await self.namespace(team)
        return [
            TemplateView(template=row, namespace=namespace, builds=await self._rows.list_builds(row.template_id))
            for row in await self._rows.list_templates(team.team_id)
        ]

    # ---- what for ----

    async def find(self, team_id: str, text: str) -> FoundTemplate:
        """The template that a client means by ``text``, at a build that is ready.

        Raises:
            TemplateNotFoundError: there is none of that name, not with that tag, or none of its builds is ready.
        """
        reference = parse_reference(text)
        if reference is None:
            raise await self._missing(text)
        if reference.namespace is None and (stock := self._stock_by_name.get(reference.name)) is not None:
            return _found_stock(stock, reference)
        row = await self.find_row(team_id, reference)
        if row is not None:
            return await self._found_build(row, reference)
        if reference.namespace is None and (stock := await self.find_stock(reference.name)) is not None:
            return _found_stock(stock, reference)
        raise await self._missing(text)

    async def _found_build(self, row: OwnedTemplate, reference: Reference) -> FoundTemplate:
        tag = reference.tag or DEFAULT_TAG
        build = await self._rows.find_tagged_build(row.template_id, tag)
        if build is None:
            builds = await self._rows.list_builds(row.template_id)
            if any(one.status is BuildStatus.READY for one in builds):
                raise TemplateNotFoundError(f"tag '{tag}' does not exist for template '{reference.name}'")
            raise TemplateNotFoundError(f"template '{reference.name}' has no finished build", hint=_progress(builds))
        return FoundTemplate(
            template_id=row.template_id,
            name=row.name or row.template_id,
            runs=build.build_id,
            cpu_count=build.cpu_count,
            mem_mib=build.mem_mib,
            disk_mib=build.disk_mib,
            owner_id=row.team_id,
        )

    async def _missing(self, text: str) -> TemplateNotFoundError:
        names = ", ".join(sorted({template.name for template in self._stock})) or "none"
        hint = f"templates of this server: {names}; 'cloister template build all' builds those that come with it"
        return TemplateNotFoundError(f"template '{text[:200]}' not found", hint=hint)

    def spawned(self, found: FoundTemplate) -> None:
        """A sandbox was created from it."""
        if found.owner_id is not None:
            task = asyncio.create_task(self._note_spawn(found.template_id))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _note_spawn(self, template_id: str) -> None:
        try:
            await self._rows.note_spawn(template_id, time.time())
        except StoreError:
            _log.exception("template.spawn_unstored", template_id=template_id)

    # ---- changes ----

    async def publish(self, team: Team, text: str, *, public: bool) -> TemplateView:
        """Let every team use the template, or only its own. Raises: as :meth:`find_own`."""
        row, _ = await self.find_own(team, text)
        await self._rows.change_template(row.template_id, public=public, at=time.time())
        return await self.view(team, row.template_id)

    async def assign_tags(self, team: Team, target: str, tags: Sequence[str]) -> Build:
        """Give tags to the build that ``target`` (``name:tag``) means; returns it. Raises: as :meth:`find_own` and :meth:`find`."""
        if not tags:
            raise InvalidRequestError("At least one tag is required")
        if parse_reference(target) is None:
            raise InvalidRequestError(f"Invalid target template format: {target[:200]}")
        row, reference = await self.find_own(team, target)
        found = await self._found_build(row, reference)
        await self._rows.assign_tags(row.template_id, found.runs, tags, time.time())
        build = await self._rows.find_build(found.runs)
        if build is None:
            raise await self._missing(target)
        return build

    async def remove_tags(self, team: Team, name: str, tags: Sequence[str]) -> None:
        """Take tags away from the template.

        Raises:
            InvalidRequestError: none is given, the default one is among them, or ``name`` has a tag.
            TemplateNotFoundError: it has none of the tags; and as :meth:`find_own`.
        """
        if not tags:
            raise InvalidRequestError("At least one tag is required")
        if DEFAULT_TAG in tags:
            raise InvalidRequestError(f"Cannot delete the '{DEFAULT_TAG}' tag")
        if parse_reference(name) is None:
            raise InvalidRequestError(f"Invalid template name format: {name[:200]}")
        row, reference = await self.find_own(team, name)
        if reference.tag is not None:
            raise InvalidRequestError("Template name should not contain a tag, use the 'tags' field instead")
        if not await self._rows.remove_tags(row.template_id, tags):
            raise TemplateNotFoundError(f"tag '{tags[0]}' does not exist for template '{reference.name}'")

    async def tags(self, team: Team, text: str) -> tuple[OwnedTemplate, Sequence[TagAssignment]]:
        """The template and what each of its tags means. Raises: as :meth:`find_own`."""
        row, _ = await self.find_own(team, text)
        return row, await self._rows.list_tags(row.template_id)

    async def assignments(self, template_id: str, tag: str, *, before: int | None, limit: int) -> Sequence[TagAssignment]:
        """The latest assignments of a tag, from below number ``before`` on."""
        return await self._rows.list_assignments(template_id, tag, before=before, limit=limit)


def _found_stock(stock: Template, reference: Reference) -> FoundTemplate:
    if reference.tag not in (None, DEFAULT_TAG):
        raise TemplateNotFoundError(f"tag '{reference.tag}' does not exist for template '{reference.name}'")
    return FoundTemplate(
        template_id=stock.template_id,
        name=stock.name,
        runs=stock.name,
        cpu_count=stock.limits.cpu_count,
        mem_mib=stock.limits.mem_mib,
        disk_mib=stock.limits.disk_mib,
        owner_id=None,
    )


def _progress(builds: Sequence[Build]) -> str:
    if not builds:
        return "build it first"
    newest = builds[0]
    return f"its last build failed: {newest.message}" if newest.status is BuildStatus.ERROR else f"its last build is {newest.status}"
