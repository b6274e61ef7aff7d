"""The client's requests for builds, the answers, and the server's settings. Plain data, and the check of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloister.errors import InvalidRequestError
from cloister.ids import new_build_id
from cloister.model.build import Build, BuildLogEntry, ImageSource
from cloister.model.template import OwnedTemplate

__all__ = ["BuildPlan", "BuildSettings", "BuildStatusView", "NewBuild", "PlannedStep", "RegisteredBuild", "sized_build"]

_MIN_MEM_MIB = 128


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """The server's limits, and its defaults for values that a client leaves out."""

    cpu_count: float
    mem_mib: int
    disk_mib: int
    max_cpu_count: int
    max_mem_mib: int
    max_disk_mib: int
    max_builds: int
    """Running builds of one team."""
    max_templates: int


@dataclass(frozen=True, kw_only=True)
class NewBuild:
    """The client's first request: it registers a build."""

    name: str
    tags: tuple[str, ...] = ()
    cpu_count: int | None = None
    mem_mib: int | None = None
    min_free_disk_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class RegisteredBuild:
    """The answer to the first request."""

    template: OwnedTemplate
    namespace: str
    build: Build
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step as the client sends it, with the client's own hash of the archive."""

    kind: str
    args: tuple[str, ...]
    files_hash: str | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """The client's second request: it starts the build. Exactly one of ``image`` and ``template`` is set."""

    image: ImageSource | None = None
    template: str | None = None
    steps: tuple[PlannedStep, ...] = ()
    start_cmd: str = ""
    ready_cmd: str = ""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildStatusView:
    """The state of a build and a window of its log. ``tail``: the last entries of the failed step."""

    build: Build
    entries: Sequence[BuildLogEntry]
    tail: Sequence[BuildLogEntry] = field(default=())


def sized_build(new: NewBuild, settings: BuildSettings, now: float) -> Build:
    """A build of the requested size. Its template is not set yet.

    Raises:
        InvalidRequestError: names the bound.
    """
    if new.cpu_count is not None and new.cpu_count < 1:
        raise InvalidRequestError("CPU count must be at least 1")
    if new.cpu_count is not None and new.cpu_count > settings.max_cpu_count:
        raise InvalidRequestError(
            f"CPU count can't be higher than {settings.max_cpu_count}", hint="the server's setting max_template_cpu_count"
        )
    if new.mem_mib is not None and new.mem_mib < _MIN_MEM_MIB:
        raise InvalidRequestError(f"Memory must be at least {_MIN_MEM_MIB} MiB")
    if new.mem_mib is not None and new.mem_mib % 2:
        raise InvalidRequestError("Memory must be divisible by 2")
    if new.mem_mib is not None and new.mem_mib > settings.max_mem_mib:
        raise InvalidRequestError(
            f"Memory can't be higher than {settings.max_mem_mib} MiB", hint="the server's setting max_template_mem_mib"
        )
    if new.min_free_disk_mib is not None and new.min_free_disk_mib < 0:
        raise InvalidRequestError("minFreeDiskMb must not be negative")
    if new.min_free_disk_mib is not None and new.min_free_disk_mib > settings.max_disk_mib:
        raise InvalidRequestError(
            f"minFreeDiskMb can't be higher than {settings.max_disk_mib} MiB", hint="the server's setting max_template_disk_mib"
        )
    return Build(
        build_id=new_build_id(),
        template_id="",
        created_at=now,
        updated_at=now,
        cpu_count=new.cpu_count or settings.cpu_count,
        mem_mib=new.mem_mib or settings.mem_mib,
        disk_mib=max(new.min_free_disk_mib or 0, settings.disk_mib),
    )
