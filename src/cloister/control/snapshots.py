"""Snapshots: captures of sandboxes, as builds of a named template or of a template of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cloister.control.builds.builds import Builds
from cloister.control.captures import Captures, build_of
from cloister.control.names import DEFAULT_TAG, Reference, parse_new_name, parse_reference
from cloister.control.templates import Templates
from cloister.errors import ConflictError, InvalidRequestError
from cloister.model.sandbox import Sandbox
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate, TaggedBuild, TemplateKind
from cloister.nodewire.requests import TakeSnapshot
from cloister.store.base import Store

__all__ = ["Snapshot", "SnapshotPage", "Snapshots"]

_log = structlog.get_logger("cloister.control")
_PAGE = 200
_NO_MEMORY = "a snapshot with memory needs the capability 'checkpoint', which this server does not have: it keeps the files"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot, by the names that clients use."""

    template: OwnedTemplate
    namespace: str
    tag: str
    has_memory: bool = False
    """Whether sandboxes of it go on with the processes of the captured one."""

    @property
    def names(self) -> list[str]:
        """The snapshot's name, if it has one."""
        return [] if self.template.name is None else [f"{self.namespace}/{self.template.name}"]

    @property
    def snapshot_id(self) -> str:
        """The reference that creates a sandbox from the snapshot."""
        return f"{self.names[0] if self.template.name is not None else self.template.template_id}:{self.tag}"


@dataclass(frozen=True, kw_only=True)
class SnapshotPage:
    """Snapshots, latest first. The next page begins at ``before``; None: this is the last page."""

    snapshots: Sequence[Snapshot]
    before: int | None


class Snapshots:
    """The use cases about snapshots."""

    def __init__(self, store: Store, templates: Templates, builds: Builds, captures: Captures) -> None:
        self._rows = store.templates
        self._templates = templates
        self._builds = builds
        self._captures = captures
        self._making: set[asyncio.Task[Snapshot]] = set()

    async def close(self) -> None:
        """Wait for snapshots under way."""
        await asyncio.gather(*self._making, return_exceptions=True)

    async def create(self, team: Team, sandbox_id: str, name: str | None, *, memory: bool | None) -> Snapshot:
        """Make a snapshot of the sandbox; returns when it can be used. Continues if the caller is cancelled.

        With ``memory`` it has the processes too. None: if they can be captured, else only the files; the answer says which.

        Raises:
            SandboxNotFoundError (also: it is paused), ConflictError (it is being paused, or captured now), InvalidRequestError (also: the
            node cannot capture memory), PermissionDeniedError, QuotaExceededError; and the node's errors.
        """
        reference = None if name is None else parse_new_name(name)
        row = self._captures.find_running(team.team_id, sandbox_id)
        has_memory = memory is not False and await self._captures.can_keep_memory(row)
        if memory and not has_memory:
            raise InvalidRequestError(_NO_MEMORY, hint="leave memory out, or send memory: false (mode='filesystem' in the SDKs)")
        task = asyncio.create_task(self._create(team, sandbox_id, reference, memory=has_memory, may_lack_memory=memory is None))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        return await asyncio.shield(task)

    async def _create(self, team: Team, sandbox_id: str, reference: Reference | None, *, memory: bool, may_lack_memory: bool) -> Snapshot:
        with self._captures.source(team.team_id, sandbox_id) as row:
            try:
                return await self._capture(team, row, reference, memory=memory)
            except ConflictError as error:  # its processes have state that cannot be saved
                if not (memory and may_lack_memory):
                    raise
                _log.info("snapshot.without_memory", sandbox_id=sandbox_id, error=str(error))
            return await self._capture(team, row, reference, memory=False)

    async def _capture(self, team: Team, row: Sandbox, reference: Reference | None, *, memory: bool) -> Snapshot:
        template = await self._builds.registration.template_for(team, reference, TemplateKind.SNAPSHOT)
        namespace = await self._templates.namespace(team)
        tag = DEFAULT_TAG if reference is None or reference.tag is None else reference.tag
        build = build_of(row, template.template_id)
        ask = TakeSnapshot(row.sandbox_id, build.build_id, template.template_id, template.name or template.template_id, memory)
        with self._builds.snapshots.hold(build.build_id):
            await self._builds.snapshots.add(build, tag, build.created_at)
            await self._captures.take(build, ask)
        snapshot = Snapshot(template=template, namespace=namespace, tag=tag, has_memory=memory)
        await self._captures.note_checkpoint(row.sandbox_id, snapshot.snapshot_id)
        _log.info("snapshot.created", sandbox_id=row.sandbox_id, template_id=template.template_id, build_id=build.build_id)
        return snapshot

    async def list(self, team: Team, *, sandbox_id: str | None, name: str | None, before: int | None, limit: int) -> SnapshotPage:
        """The team's snapshots, one for each template, by its latest tag; only those of the sandbox or name if one is given.

        A tag in the name asks for the snapshot of that tag.
        """
        namespace = await self._templates.namespace(team)
        wanted = None if name is None else parse_reference(name)
        if name is not None and wanted is None:
            return SnapshotPage(snapshots=(), before=None)
        found: list[tuple[int, Snapshot]] = []
        while len(found) <= limit:
            page = await self._rows.list_snapshots(
                team.team_id, sandbox_id=sandbox_id, tag=None if wanted is None else wanted.tag, before=before, limit=_PAGE
            )
            found += [(one.assignment.number, _snapshot(one, namespace)) for one in page if _is_wanted(one, wanted, namespace)]
            if len(page) < _PAGE:
                break
            before = page[-1].assignment.number
        following = found[limit - 1][0] if len(found) > limit else None
        return SnapshotPage(snapshots=[one for _, one in found[:limit]], before=following)


def _snapshot(one: TaggedBuild, namespace: str) -> Snapshot:
    return Snapshot(template=one.template, namespace=namespace, tag=one.assignment.tag)


def _is_wanted(one: TaggedBuild, wanted: Reference | None, namespace: str) -> bool:
    if wanted is None:
        return True
    return wanted.namespace in (None, namespace) and wanted.name in (one.template.name, one.template.template_id)
