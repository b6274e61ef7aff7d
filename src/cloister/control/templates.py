"""The templates of the server, and the resolution of names in requests.

The node has the stock templates, for all teams; rows of the store are teams' own templates. The names are those of the published API: id,
name, ``name:tag``, ``name:<build id>`` or ``namespace/name``.
Invariant (I5): a team cannot tell another team's private template from one that does not exist.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.names import DEFAULT_TAG, Reference, namespace_of, parse_reference
from cloister.errors import (
    CloisterError,
    InvalidRequestError,
    PermissionDeniedError,
    StorageFullError,
    StoreError,
    TemplateNotFoundError,
    UnavailableError,
)
from cloister.model.build import Build, BuildStatus
from cloister.model.team import Team
from cloister.model.template import ON_DEMAND, STARTER, OwnedTemplate, TagAssignment, Template
from cloister.nodewire.requests import TemplateRef
from cloister.store.base import Store

__all__ = ["DEFAULT_TAG", "FoundTemplate", "TemplateView", "Templates"]

_log = structlog.get_logger("cloister.control")
_SHOWN_TAGS = 20


@dataclass(frozen=True, kw_only=True)
class FoundTemplate:
    """A template that a sandbox or another template can start from."""

    template_id: str
    name: str
    """The name for display."""
    runs: str
    """The node's name for it: a stock template's name or a build id."""
    cpu_count: float
    mem_mib: int
    disk_mib: int
    owner_id: str | None
    """None: a stock template."""
    node_id: str | None = None
    """The node that has the build; None: all nodes have the stock templates."""


@dataclass(frozen=True, kw_only=True)
class TemplateView:
    """A team's template with its builds, newest first, and its namespace."""

    template: OwnedTemplate
    namespace: str
    builds: Sequence[Build]

    @property
    def newest(self) -> Build | None:
        """The build that describes the template: the newest ready one, else the newest."""
        ready = (build for build in self.builds if build.status is BuildStatus.READY)
        return next(ready, self.builds[0] if self.builds else None)


class Templates:
    """The node's stock templates and the teams' own templates."""

    def __init__(self, node: NodeClient, store: Store) -> None:
        self._node = node
        self._store = store
        self._rows = store.templates
        self._stock: Sequence[Template] = ()
        self._stock_by_name: dict[str, Template] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self.since = time.time()
        """Time at which this process first had the node's templates."""

    def learn(self, templates: Sequence[Template]) -> None:
        """Replace the list of stock templates by the node's answer."""
        self._stock = tuple(templates)
        self._stock_by_name = {
            name: template for template in templates for name in (template.template_id, template.name, *template.aliases)
        }

    async def close(self) -> None:
        """Wait for writes under way."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def stock(self) -> Sequence[Template]:
        """All stock templates, from the node."""
        self.learn(await self._node.templates())
        return self._stock

    async def find_stock(self, name: str) -> Template | None:
        """The stock template of that name or id."""
        if name not in self._stock_by_name:
            await self.stock()
        return self._stock_by_name.get(name)

    # ---- rows and their teams ----

    async def namespace(self, team: Team) -> str:
        """The team's namespace."""
        return namespace_of(team, await self._store.teams.list_teams())

    async def _team_of(self, namespace: str) -> str | None:
        teams = await self._store.teams.list_teams()
        return next((team.team_id for team in teams if namespace == namespace_of(team, teams)), None)

    async def find_row(self, team_id: str, reference: Reference) -> OwnedTemplate | None:
        """The referenced template, the team's own or a public one, with any tag."""
        if reference.namespace is not None:
            owner = await self._team_of(reference.namespace)
            row = None if owner is None else await self._rows.find_named_template(owner, reference.name)
        else:
            row = await self._rows.find_named_template(team_id, reference.name) or await self._rows.find_template(reference.name)
        return row if row is not None and (row.team_id == team_id or row.public) else None

    async def find_own(self, team: Team, text: str) -> tuple[OwnedTemplate, Reference]:
        """The team's own template that ``text`` names, to change or inspect it.

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

    # ---- templates to start from ----

    async def find(self, team_id: str, text: str) -> FoundTemplate:
        """The template that ``text`` names, at a ready build.

        Raises:
            TemplateNotFoundError: there is no such template or tag, or none of its builds is ready.
        """
        reference = parse_reference(text)
        if reference is None:
            raise await self._missing(text)
        if reference.namespace is None and (stock := self._stock_by_name.get(reference.name)) is not None:
            return _found_stock(stock, reference)
        row = await self.find_row(team_id, reference)
        if row is not None:
            return await self._found_build(team_id, row, reference)
        if reference.namespace is None and (stock := await self.find_stock(reference.name)) is not None:
            return _found_stock(stock, reference)
        raise await self._missing(text)

    async def _found_build(self, team_id: str, row: OwnedTemplate, reference: Reference) -> FoundTemplate:
        build = await self._resolve_build(row, reference, is_own=row.team_id == team_id)
        return FoundTemplate(
            template_id=row.template_id,
            name=row.name or row.template_id,
            runs=build.build_id,
            cpu_count=build.cpu_count,
            mem_mib=build.mem_mib,
            disk_mib=build.disk_mib,
            owner_id=row.team_id,
            node_id=build.node_id,
        )

    async def _resolve_build(self, row: OwnedTemplate, reference: Reference, *, is_own: bool) -> Build:
        """The build that a tag or build id refers to; for a bare template id, its only build. Another team's build must have a tag."""
        if reference.build_id is not None:
            return await self._named_build(row, reference, reference.build_id, is_own=is_own)
        tag = reference.tag or DEFAULT_TAG
        build = await self._rows.find_tagged_build(row.template_id, tag)
        if build is not None:
            return build
        tagged = {one.tag: one.build_id for one in await self._rows.list_tags(row.template_id)}
        if reference.tag is None and reference.name == row.template_id and len(set(tagged.values())) == 1:
            only = await self._rows.find_build(next(iter(tagged.values())))
            if only is not None:
                return only
        builds = await self._rows.list_builds(row.template_id)
        if any(one.status is BuildStatus.READY for one in builds):
            hint = f"its tags: {', '.join(sorted(tagged)[:_SHOWN_TAGS])}" if tagged else None
            raise TemplateNotFoundError(f"tag '{tag}' does not exist for template '{reference.name}'", hint=hint)
        raise TemplateNotFoundError(f"template '{reference.name}' has no finished build", hint=_progress(builds))

    async def _named_build(self, row: OwnedTemplate, reference: Reference, build_id: str, *, is_own: bool) -> Build:
        build = await self._rows.find_build(build_id)
        is_seen = is_own or any(one.build_id == build_id for one in await self._rows.list_tags(row.template_id))
        if build is None or build.template_id != row.template_id or not is_seen:
            raise TemplateNotFoundError(f"build '{build_id}' does not exist for template '{reference.name}'")
        if build.status is not BuildStatus.READY:
            raise TemplateNotFoundError(f"build '{build_id}' of template '{reference.name}' is not finished", hint=_progress([build]))
        return build

    async def _missing(self, text: str) -> CloisterError:
        asked = parse_reference(text)
        if asked is not None and asked.namespace is None:
            absent = await self._node.absent_template(TemplateRef(asked.name))
            if absent.note:
                has_starter = STARTER in {template.name for template in self._stock}
                hint = f"until then there is the template '{STARTER}', with Python and bash" if has_starter else "try again later"
                return UnavailableError(f"template '{asked.name}' is {absent.note}", hint=hint)
        names = ", ".join(sorted({template.name for template in self._stock})) or "none"
        hint = f"templates of this server: {names}; 'cloister template build all' builds those that come with it"
        if asked is not None and asked.namespace is None and asked.name in ON_DEMAND:
            hint = f"it comes with the server and is built on demand: 'cloister template build {asked.name}', by the server's operator"
        return TemplateNotFoundError(f"template '{text[:200]}' not found", hint=hint)

    def spawned(self, found: FoundTemplate) -> None:
        """Count a sandbox that was created from the template."""
        if found.owner_id is not None:
            task = asyncio.create_task(self._note_spawn(found.template_id))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _note_spawn(self, template_id: str) -> None:
        try:
            await self._rows.note_spawn(template_id, time.time())
        except (StoreError, StorageFullError):
            _log.exception("template.spawn_unstored", template_id=template_id)

    # ---- changes ----

    async def publish(self, team: Team, text: str, *, public: bool) -> TemplateView:
        """Make the template public, or private again. Raises: as :meth:`find_own`."""
        row, _ = await self.find_own(team, text)
        await self._rows.change_template(row.template_id, public=public, at=time.time())
        return await self.view(team, row.template_id)

    async def assign_tags(self, team: Team, target: str, tags: Sequence[str]) -> Build:
        """Assign tags to the build of ``target`` (``name:tag``); returns the build. Raises: as :meth:`find_own` and :meth:`find`."""
        if not tags:
            raise InvalidRequestError("At least one tag is required")
        if parse_reference(target) is None:
            raise InvalidRequestError(f"Invalid target template format: {target[:200]}")
        row, reference = await self.find_own(team, target)
        found = await self._found_build(team.team_id, row, reference)
        await self._rows.assign_tags(row.template_id, found.runs, tags, time.time())
        build = await self._rows.find_build(found.runs)
        if build is None:
            raise await self._missing(target)
        return build

    async def remove_tags(self, team: Team, name: str, tags: Sequence[str]) -> None:
        """Remove tags from the template.

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
        """The template and its tags with their builds. Raises: as :meth:`find_own`."""
        row, _ = await self.find_own(team, text)
        return row, await self._rows.list_tags(row.template_id)

    async def assignments(self, template_id: str, tag: str, *, before: int | None, limit: int) -> Sequence[TagAssignment]:
        """Assignments of a tag with a number below ``before``, latest first."""
        return await self._rows.list_assignments(template_id, tag, before=before, limit=limit)


def _found_stock(stock: Template, reference: Reference) -> FoundTemplate:
    if reference.build_id is not None and reference.build_id != stock.build_id:
        raise TemplateNotFoundError(f"build '{reference.build_id}' does not exist for template '{reference.name}'")
    if reference.build_id is None and reference.tag not in (None, DEFAULT_TAG):
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
