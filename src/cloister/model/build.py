"""A template build, as the control plane asks for it and as the node tells of it. Plain data.

Contract: docs/decisions/0502-templates-of-clients.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "BASE_STEP",
    "FINALIZE_STEP",
    "MAX_STEPS",
    "STEP_ARGUMENTS",
    "BuildFiles",
    "BuildLogEntry",
    "BuildReport",
    "BuildRequest",
    "BuildStatus",
    "BuildStep",
    "EndedBuild",
    "ImageSource",
]

BASE_STEP = "base"
FINALIZE_STEP = "finalize"
"""What the SDKs call the phases before and after the numbered steps."""
MAX_STEPS = 1000
STEP_ARGUMENTS = {"COPY": (2, 4), "RUN": (1, 2), "WORKDIR": (1, 1), "USER": (1, 2), "ENV": (2, 2000)}
"""The kinds of steps, and how few and how many arguments each has; those of ``ENV`` are names and values."""


class BuildStatus(StrEnum):
    """Where a build is: waiting -> building -> ready or error. A cancelled one ends with error."""

    WAITING = "waiting"
    BUILDING = "building"
    READY = "ready"
    ERROR = "error"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in (BuildStatus.READY, BuildStatus.ERROR)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An OCI image: its reference as the client wrote it, and perhaps the credentials for its registry."""

    reference: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_aws_key: bool = False
    """Whether user and password are the id and the secret of an access key, for which Amazon gives the registry's password."""


@dataclass(frozen=True, kw_only=True)
class BuildFiles:
    """An uploaded archive."""

    path: str
    """Directory below the api process's ``uploads`` that holds it as the one file ``archive`` (tar, perhaps with gzip)."""
    digest: str
    """64 hex digits: sha256 of what is in it (protocol/archive.py)."""


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One step, as the SDKs send it.

    ``COPY`` [src, dest, user or "", mode or ""], ``RUN`` [command, user?], ``WORKDIR`` [path], ``USER`` [name], ``ENV`` [name, value, …].
    """

    kind: str
    args: tuple[str, ...]
    files: BuildFiles | None = None
    """For ``COPY``."""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """One build to run. Exactly one of ``image`` and ``parent`` is set."""

    build_id: str
    template_id: str
    team_id: str
    name: str
    """For people: what the template is called."""
    image: ImageSource | None = None
    parent: str | None = None
    """Build id or stock name of the template to start from."""
    steps: tuple[BuildStep, ...] = ()
    start_cmd: str = ""
    ready_cmd: str = ""
    cpu_count: float | None = None
    """Processors of the template's sandboxes and of the build; None takes the node's default. Likewise the others (MiB)."""
    mem_mib: int | None = None
    disk_mib: int | None = None
    force: bool = False
    """Take nothing from the cache."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildRequest:
        """The inverse of :meth:`to_json`. Raises: TypeError, KeyError."""
        fields = dict(data)
        if fields.get("image") is not None:
            fields["image"] = ImageSource(**fields["image"])
        fields["steps"] = tuple(_step(step) for step in fields.get("steps", ()))
        return cls(**fields)


def _step(data: dict[str, Any]) -> BuildStep:
    files = data.get("files")
    return BuildStep(**{**data, "args": tuple(data["args"]), "files": None if files is None else BuildFiles(**files)})


@dataclass(frozen=True, kw_only=True)
class BuildLogEntry:
    """One line of a build's log. ``level`` is one of the API: debug, info, warn, error."""

    at: float
    level: str
    message: str
    step: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """A build's state, and a window of its log: ``entries`` begin at the offset that was asked for, of ``total``."""

    build_id: str
    status: BuildStatus
    total: int
    entries: tuple[BuildLogEntry, ...] = ()
    message: str = ""
    """Why it failed."""
    step: str | None = None
    """Where it failed."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BuildReport:
        """The inverse of :meth:`to_json`."""
        entries = tuple(BuildLogEntry(**entry) for entry in data["entries"])
        return cls(**{**data, "status": BuildStatus(data["status"]), "entries": entries})


@dataclass(frozen=True, kw_only=True)
class EndedBuild:
    """The event that a build ended."""

    build_id: str
    status: BuildStatus
    message: str = ""
    step: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EndedBuild:
        """The inverse of :meth:`to_json`."""
        return cls(**{**data, "status": BuildStatus(data["status"])})
