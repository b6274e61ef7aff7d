"""Snapshots: what the disk of a live sandbox holds, kept as a build of a template of its own or of one of that name.

The row is there before the node begins, so that a snapshot of which nobody heard the end is ended and dropped by the reconciliation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.builds import Builds
from cloister.control.names import DEFAULT_TAG, Reference, parse_new_name, parse_reference
from cloister.control.sandboxes import Sandboxes
from cloister.control.templates import Templates
from cloister.errors import CloisterError
from cloister.ids import new_build_id
from cloister.model.build import BuildStatus
from cloister.store.base import Store, Team
from cloister.store.templates import Build, OwnedTemplate, TaggedBuild, TemplateKind

__all__ = ["Snapshot", "SnapshotPage", "Snapshots"]

_log = structlog.get_logger("cloister.control")
_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot as clients call it."""

    template: OwnedTemplate
    namespace: str
    tag: str

    @property
    def names(self) -> list[str]:
        """Its name, if it has one."""
        return [] if self.template.name is None else [f"{self.namespace}/{self.template.name}"]

    @property
    def snapshot_id(self) -> str:
        """What a sandbox is created from."""
        return f"{self.names[0] if self.template.name is not None else self.template.template_id}:{self.tag}"


@dataclass(frozen=True, kw_only=True)
class SnapshotPage:
    """Snapshots, latest first, and where to go on; None: there are no more."""

    snapshots: Sequence[Snapshot]
    before: int | None


class Snapshots:
    """The use cases about snapshots, on one node."""

    def __init__(self, node: NodeClient, store: Store, templates: Templates, builds: Builds, sandboxes: Sandboxes) -> None:
        self._node = node
        self._rows = store.templates
        self._templates = templates
        self._builds = builds
        self._sandboxes = sandboxes
        self._making: set[asyncio.Task[Snapshot]] = set()

    async def close(self) -> None:
        """Wait for snapshots that are being made."""
        await asyncio.gather(*self._making, return_exceptions=True)

    async def create(self, team: Team, sandbox_id: str, name: str | None) -> Snapshot:
        """Keep what the sandbox's disk holds now; returns when it can be used. Goes on when the caller is cancelled.

        Raises:
            SandboxNotFoundError, InvalidRequestError, PermissionDeniedError, QuotaExceededError; and what the node says.
        """
        self._sandboxes.get(team.team_id, sandbox_id)
        reference = None if name is None else parse_new_name(name)
        task = asyncio.create_task(self._create(team, sandbox_id, reference))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        return await asyncio.shield(task)

    async def _create(self, team: Team, sandbox_id: str, reference: Reference | None) -> Snapshot:
        row = self._sandboxes.get(team.team_id, sandbox_id)
        template = await self._builds.template_for(team, reference, TemplateKind.SNAPSHOT)
        namespace = await self._templates.namespace(team)
        tag = DEFAULT_TAG if reference is None or reference.tag is None else reference.tag
        now = time.time()
        build = Build(
            build_id=new_build_id(),
            template_id=template.template_id,
            status=BuildStatus.BUILDING,
            created_at=now,
            updated_at=now,
            started_at=now,
            cpu_count=row.cpu_count,
            mem_mib=row.mem_mib,
            disk_mib=row.disk_mib,
            sandbox_id=sandbox_id,
        )
        await self._builds.add_snapshot(build, tag, now)
        snapshot = Snapshot(template=template, namespace=namespace, tag=tag)
        try:
            await self._node.snapshot(sandbox_id, build.build_id, template.template_id, template.name or template.template_id)
        except CloisterError as error:
            await self._builds.finish_snapshot(build.build_id, str(error))
            raise
        except BaseException:
            await self._builds.finish_snapshot(build.build_id, "internal error of the server")
            raise
        await self._builds.finish_snapshot(build.build_id, None)
        _log.info("snapshot.created", sandbox_id=sandbox_id, template_id=template.template_id, build_id=build.build_id)
        return snapshot

    async def list(self, team: Team, *, sandbox_id: str | None, name: str | None, before: int | None, limit: int) -> SnapshotPage:
        """The team's snapshots, of the sandbox or of the name if one is given."""
        namespace = await self._templates.namespace(team)
        wanted = None if name is None else parse_reference(name)
        if name is not None and wanted is None:
            return SnapshotPage(snapshots=(), before=None)
        found: list[tuple[int, Snapshot]] = []
        while len(found) <= limit:
            page = await self._rows.list_snapshots(team.team_id, sandbox_id=sandbox_id, before=before, limit=_PAGE)
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
    return (
        wanted.namespace in (None, namespace)
        and wanted.name in (one.template.name, one.template.template_id)
        and wanted.tag in (None, one.assignment.tag)
    )
