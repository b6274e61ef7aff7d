"""What a client asks for when it builds a template, and the bounds that a server sets. Plain data and the checks of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloister.errors import InvalidRequestError
from cloister.ids import new_build_id
from cloister.model.build import BuildLogEntry, ImageSource
from cloister.store.templates import Build, OwnedTemplate

__all__ = ["BuildPlan", "BuildPolicy", "BuildView", "NewBuild", "PlannedStep", "RequestedBuild", "sized"]

_MIN_MEM_MIB = 128


@dataclass(frozen=True, kw_only=True)
class BuildPolicy:
    """The bounds that a server sets, and what it gives when a client does not say."""

    cpu_count: float
    mem_mib: int
    disk_mib: int
    max_cpu_count: int
    max_mem_mib: int
    max_disk_mib: int
    max_builds: int
    """Of a team, at a time."""
    max_templates: int


@dataclass(frozen=True, kw_only=True)
class NewBuild:
    """What a client asks for first."""

    name: str
    tags: tuple[str, ...] = ()
    cpu_count: int | None = None
    mem_mib: int | None = None
    min_free_disk_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class RequestedBuild:
    """What it gets."""

    template: OwnedTemplate
    namespace: str
    build: Build
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step as the client tells it: archives by its own hash."""

    kind: str
    args: tuple[str, ...]
    files_hash: str | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What to build. Exactly one of ``image`` and ``template`` is set."""

    image: ImageSource | None = None
    template: str | None = None
    steps: tuple[PlannedStep, ...] = ()
    start_cmd: str = ""
    ready_cmd: str = ""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildView:
    """How a build is, and a window of its log. ``tail``: the last entries of the step that failed."""

    build: Build
    entries: Sequence[BuildLogEntry]
    tail: Sequence[BuildLogEntry] = field(default=())


def sized(new: NewBuild, policy: BuildPolicy, now: float) -> Build:
    """A build of the size that the client asks for, of no template yet.

    Raises:
        InvalidRequestError: names the bound.
    """
    if new.cpu_count is not None and new.cpu_count < 1:
        raise InvalidRequestError("CPU count must be at least 1")
    if new.cpu_count is not None and new.cpu_count > policy.max_cpu_count:
        raise InvalidRequestError(
            f"CPU count can't be higher than {policy.max_cpu_count}", hint="the server's setting max_template_cpu_count"
        )
    if new.mem_mib is not None and new.mem_mib < _MIN_MEM_MIB:
        raise InvalidRequestError(f"Memory must be at least {_MIN_MEM_MIB} MiB")
    if new.mem_mib is not None and new.mem_mib % 2:
        raise InvalidRequestError("Memory must be divisible by 2")
    if new.mem_mib is not None and new.mem_mib > policy.max_mem_mib:
        raise InvalidRequestError(f"Memory can't be higher than {policy.max_mem_mib} MiB", hint="the server's setting max_template_mem_mib")
    if new.min_free_disk_mib is not None and new.min_free_disk_mib < 0:
        raise InvalidRequestError("minFreeDiskMb must not be negative")
    if new.min_free_disk_mib is not None and new.min_free_disk_mib > policy.max_disk_mib:
        raise InvalidRequestError(
            f"minFreeDiskMb can't be higher than {policy.max_disk_mib} MiB", hint="the server's setting max_template_disk_mib"
        )
    return Build(
        build_id=new_build_id(),
        template_id="",
        created_at=now,
        updated_at=now,
        cpu_count=new.cpu_count or policy.cpu_count,
        mem_mib=new.mem_mib or policy.mem_mib,
        disk_mib=max(new.min_free_disk_mib or 0, policy.disk_mib),
    )
