"""What the control plane needs of a store for templates of clients: the rows, as frozen data, and the calls.

Invariant: a build changes only by compare-and-set on its ``version``. What a tag means is derived, never kept: the build of the tag's
latest assignment that is ready, so a build that fails takes nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cloister.model.build import BuildStatus

__all__ = ["Build", "OwnedTemplate", "TagAssignment", "TaggedBuild", "TemplateKind", "TemplateStore", "Upload"]


class TemplateKind(StrEnum):
    """How a template began."""

    TEMPLATE = "template"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, kw_only=True)
class OwnedTemplate:
    """A template of a team. Times here and below are seconds since the epoch, UTC."""

    template_id: str
    team_id: str
    name: str | None
    kind: TemplateKind = TemplateKind.TEMPLATE
    public: bool = False
    created_at: float
    updated_at: float
    spawn_count: int = 0
    last_spawned_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Build:
    """One run of a template, or one snapshot of a sandbox."""

    build_id: str
    template_id: str
    status: BuildStatus = BuildStatus.WAITING
    created_at: float
    updated_at: float
    started_at: float | None = None
    """None: the client has not said yet what to build."""
    finished_at: float | None = None
    cpu_count: float
    mem_mib: int
    disk_mib: int
    message: str = ""
    step: str | None = None
    sandbox_id: str | None = None
    """Of a snapshot: what it was made of."""
    parent: str | None = None
    """Build id or stock template that it began with."""
    uploads: tuple[str, ...] = ()
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class TagAssignment:
    """That a tag was given to a build. ``number`` orders assignments."""

    number: int
    assignment_id: str
    tag: str
    assigned_at: float
    build_id: str
    build_created_at: float
    build_finished_at: float | None


@dataclass(frozen=True)
class TaggedBuild:
    """A tag of a template and the build that it means."""

    template: OwnedTemplate
    assignment: TagAssignment


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An archive that a team uploaded under a hash of its own choice."""

    team_id: str
    hash: str
    size_bytes: int
    digest: str | None = None
    created_at: float
    used_at: float


class TemplateStore(Protocol):
    """Every method raises StoreError when the database fails. Deleted templates are seen by ``list_unwanted_builds`` only."""

    async def add_template(self, template: OwnedTemplate) -> None:
        """Add a template; AlreadyExistsError when the team has one of that name."""

    async def find_template(self, template_id: str) -> OwnedTemplate | None:
        """The template of that id, whoever owns it."""

    async def find_named_template(self, team_id: str, name: str) -> OwnedTemplate | None:
        """The team's template of that name."""

    async def list_templates(self, team_id: str) -> Sequence[OwnedTemplate]:
        """The team's templates without its snapshots, newest first."""

    async def change_template(self, template_id: str, *, public: bool, at: float) -> None:
        """Publish a template, or take that back."""

    async def note_spawn(self, template_id: str, at: float) -> None:
        """A sandbox was created from the template."""

    async def delete_template(self, template_id: str, at: float) -> bool:
        """Delete a template, its builds and tags as clients see them; False if there is none."""

    async def count_templates(self, team_id: str) -> int:
        """How many templates and snapshots the team has."""

    async def forget_deleted_templates(self) -> None:
        """Remove the rows of deleted templates that have no builds any more."""

    async def add_build(self, build: Build, tags: Sequence[str], at: float) -> None:
        """Add a build and assign the tags to it."""

    async def find_build(self, build_id: str) -> Build | None:
        """The build of that id."""

    async def change_build(self, build: Build, *, expected_version: int) -> bool:
        """Replace the row, whose version becomes ``build.version``; False when it is no longer at ``expected_version``."""

    async def list_builds(self, template_id: str) -> Sequence[Build]:
        """The template's builds, newest first."""

    async def list_unfinished_builds(self, team_id: str | None = None) -> Sequence[Build]:
        """Builds that are waiting or building: all, or the team's."""

    async def list_unwanted_builds(self, ended_before: float) -> Sequence[Build]:
        """Builds that nobody can reach any more: of deleted templates; or, if they ended earlier, failed ones and those without a tag.

        Not those that an unfinished build began with.
        """

    async def forget_build(self, build_id: str) -> None:
        """Remove a build's row and its assignments."""

    async def list_build_tags(self, build_id: str) -> Sequence[str]:
        """Every tag that was assigned to the build, by name."""

    async def assign_tags(self, template_id: str, build_id: str, tags: Sequence[str], at: float) -> None:
        """Assign tags to a build."""

    async def remove_tags(self, template_id: str, tags: Sequence[str]) -> int:
        """Remove every assignment of the tags; returns how many of the tags there were."""

    async def find_tagged_build(self, template_id: str, tag: str) -> Build | None:
        """The build that the tag means."""

    async def list_tags(self, template_id: str) -> Sequence[TagAssignment]:
        """What each tag means now, by name."""

    async def list_assignments(self, template_id: str, tag: str, *, before: int | None, limit: int) -> Sequence[TagAssignment]:
        """Assignments of the tag to builds that are ready, latest first, from below number ``before`` on."""

    async def list_snapshots(self, team_id: str, *, sandbox_id: str | None, before: int | None, limit: int) -> Sequence[TaggedBuild]:
        """The team's tags that mean snapshots (of the sandbox, if given), latest first, from below assignment number ``before`` on."""

    async def put_upload(self, upload: Upload) -> None:
        """Add an upload, or replace the one of that hash."""

    async def find_upload(self, team_id: str, upload_hash: str) -> Upload | None:
        """The team's upload of that hash."""

    async def list_uploads(self) -> Sequence[Upload]:
        """All uploads, least lately used first."""

    async def note_digest(self, upload: Upload, digest: str) -> bool:
        """Keep the digest of exactly this upload; False when it was replaced meanwhile."""

    async def use_upload(self, team_id: str, upload_hash: str, at: float) -> None:
        """The upload was of use."""

    async def remove_upload(self, upload: Upload) -> bool:
        """Remove exactly this upload; False when it was replaced or used meanwhile."""
