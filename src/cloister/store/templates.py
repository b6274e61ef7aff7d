"""The store's interface for templates of clients. Its rows are entities of ``model/``.

Invariant: a build changes only by compare-and-set on its ``version``. The build of a tag is derived, not stored: among the builds that
the tag was assigned to, the latest that is ready. So a failed build leaves the tag as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cloister.model.build import Build
from cloister.model.template import OwnedTemplate, TagAssignment, TaggedBuild
from cloister.model.upload import Upload

__all__ = ["TemplateStore"]


class TemplateStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full.

    Only ``list_unwanted_builds`` returns data of deleted templates.
    """

    async def add_template(self, template: OwnedTemplate) -> None:
        """Add a template; AlreadyExistsError when the team has one of that name."""

    async def find_template(self, template_id: str) -> OwnedTemplate | None:
        """The template of that id, whoever owns it."""

    async def find_named_template(self, team_id: str, name: str) -> OwnedTemplate | None:
        """The team's template of that name."""

    async def list_templates(self, team_id: str) -> Sequence[OwnedTemplate]:
        """The team's templates without its snapshots, newest first."""

    async def change_template(self, template_id: str, *, public: bool, at: float) -> None:
        """Make a template public, or private again."""

    async def note_spawn(self, template_id: str, at: float) -> None:
        """Count a sandbox that was created from the template."""

    async def delete_template(self, template_id: str, at: float) -> bool:
        """Delete a template, its builds and tags as clients see them; False if there is none."""

    async def has_sandboxes(self, template: OwnedTemplate) -> bool:
        """Whether the template's team has a sandbox of it that has not ended."""

    async def count_templates(self, team_id: str) -> int:
        """How many templates and snapshots the team has."""

    async def forget_deleted_templates(self) -> None:
        """Delete the rows of deleted templates without builds."""

    async def add_build(self, build: Build, tags: Sequence[str], at: float) -> None:
        """Add a build and assign the tags to it."""

    async def add_capture(self, build: Build, team_id: str, at: float) -> None:
        """Add a build whose template is deleted from the start: no client can reach it, and only sandboxes keep it."""

    async def find_build(self, build_id: str) -> Build | None:
        """The build of that id."""

    async def change_build(self, build: Build, *, expected_version: int) -> bool:
        """Replace the row if it has ``expected_version``; its version becomes ``build.version``. False: it has another version."""

    async def list_builds(self, template_id: str) -> Sequence[Build]:
        """The template's builds, newest first."""

    async def list_unfinished_builds(self, team_id: str | None = None) -> Sequence[Build]:
        """Builds that are waiting or building: all, or the team's."""

    async def list_unwanted_builds(self, ended_before: float) -> Sequence[Build]:
        """Builds that no client can reach: those of deleted templates; and of those that ended earlier, failed ones and ones without a tag.

        Leaves out builds that an unfinished build starts from, and those that a sandbox stands on.
        """

    async def forget_build(self, build_id: str) -> None:
        """Delete a build's row and its assignments."""

    async def list_build_tags(self, build_id: str) -> Sequence[str]:
        """Every tag that was ever assigned to the build, by name."""

    async def assign_tags(self, template_id: str, build_id: str, tags: Sequence[str], at: float) -> None:
        """Assign tags to a build."""

    async def remove_tags(self, template_id: str, tags: Sequence[str]) -> int:
        """Remove every assignment of the tags; returns how many of the tags there were."""

    async def find_tagged_build(self, template_id: str, tag: str) -> Build | None:
        """The tag's build."""

    async def list_tags(self, template_id: str) -> Sequence[TagAssignment]:
        """The template's tags with their present builds, by name."""

    async def list_assignments(self, template_id: str, tag: str, *, before: int | None, limit: int) -> Sequence[TagAssignment]:
        """The tag's assignments to ready builds with a number below ``before``, latest first."""

    async def list_snapshots(
        self, team_id: str, *, sandbox_id: str | None, tag: str | None, before: int | None, limit: int
    ) -> Sequence[TaggedBuild]:
        """The team's templates with snapshots (of the sandbox, if given), each with its latest tag, or with ``tag`` if it has that.

        Those with an assignment number below ``before``, latest first.
        """

    async def put_upload(self, upload: Upload) -> None:
        """Add an upload, or replace the one of that hash."""

    async def find_upload(self, team_id: str, upload_hash: str) -> Upload | None:
        """The team's upload of that hash."""

    async def list_uploads(self) -> Sequence[Upload]:
        """All uploads, least lately used first."""

    async def note_digest(self, upload: Upload, digest: str) -> bool:
        """Store the digest of this upload; False: it was replaced meanwhile."""

    async def use_upload(self, team_id: str, upload_hash: str, at: float) -> None:
        """Note that a build used the upload."""

    async def remove_upload(self, upload: Upload) -> bool:
        """Delete this upload; False: it was replaced or used meanwhile."""
