"""A template build: its row in the control plane, the request to the node, and the node's reports. Plain data.

Contract: docs/decisions/0502-templates-of-clients.md.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from cloister.errors import InvalidRequestError
from cloister.model.bounds import BuildId, Label, PublicId, Quantity, Text, count, matching, one_of, positive, text

__all__ = [
    "BASE_STEP",
    "FINALIZE_STEP",
    "MAX_STEPS",
    "STEP_ARGUMENTS",
    "Build",
    "BuildLogEntry",
    "BuildReport",
    "BuildRequest",
    "BuildStatus",
    "BuildStep",
    "EndedBuild",
    "ImageSource",
    "UploadedArchive",
]

BASE_STEP = "base"
FINALIZE_STEP = "finalize"
"""The SDKs' names of the phases before and after the numbered steps."""
MAX_STEPS = 1000
STEP_ARGUMENTS = {"COPY": (2, 4), "RUN": (1, 2), "WORKDIR": (1, 1), "USER": (1, 2), "ENV": (2, 2000)}
"""Kind of step to its least and greatest number of arguments. Those of ``ENV`` are names and values."""


_MAX_ARGS = max(most for _least, most in STEP_ARGUMENTS.values())
_MAX_SECRET_BYTES = 16_384
_NAME = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
"""A plain component of a path: not "." or "..", and without a slash."""


def _image_reference(value: str, where: str) -> None:
    """A bound. The message reaches the client: ``value`` is what it wrote in ``from_image``."""
    text()(value, where)
    if not re.fullmatch("[!-~]{1,1024}", value):
        raise InvalidRequestError(f"'{value[:200]}' is not a valid image reference", hint="an image is named like python:3.12")


class BuildStatus(StrEnum):
    """The state of a build: waiting -> building -> ready or error. A cancelled build ends with error."""

    WAITING = "waiting"
    BUILDING = "building"
    READY = "ready"
    ERROR = "error"

    @property
    def is_final(self) -> bool:
        """Whether the build has ended."""
        return self in (BuildStatus.READY, BuildStatus.ERROR)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An OCI image: its reference as the client wrote it, perhaps with credentials for its registry."""

    reference: Annotated[str, _image_reference]
    username: Annotated[str, text(_MAX_SECRET_BYTES)] | None = None
    password: Annotated[str, text(_MAX_SECRET_BYTES)] | None = field(default=None, repr=False)
    is_aws_key: bool = False
    """Whether user name and password are the id and secret of an AWS access key, which Amazon exchanges for the registry's password."""


@dataclass(frozen=True, kw_only=True)
class UploadedArchive:
    """An uploaded archive for a ``COPY`` step."""

    path: Annotated[str, matching(f"{_NAME}/{_NAME}")]
    """The directory below the api process's ``uploads`` that contains the file ``archive`` (tar, perhaps with gzip)."""
    digest: Annotated[str, matching("[0-9a-f]{64}")]
    """64 hex digits: sha256 of the contents (protocol/archive.py)."""


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One step, as the SDKs send it.

    ``COPY`` [src, dest, user or "", mode or ""], ``RUN`` [command, user?], ``WORKDIR`` [path], ``USER`` [name], ``ENV`` [name, value, …].
    """

    kind: Annotated[str, one_of(STEP_ARGUMENTS)]
    args: Annotated[tuple[Text, ...], count(1, _MAX_ARGS)]
    files: UploadedArchive | None = None
    """For ``COPY``."""
    force: bool = False

    def check(self, where: str) -> None:
        """Raises: InvalidRequestError: the fields do not fit each other."""
        if (self.files is None) == (self.kind == "COPY"):
            raise InvalidRequestError(f"{where}: COPY needs files, and no other step has any")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """The request to the node to run one build. Exactly one of ``image`` and ``parent`` is set."""

    build_id: BuildId
    template_id: PublicId
    team_id: PublicId
    name: Label
    """The template's name, for logs."""
    image: ImageSource | None = None
    parent: Annotated[str, matching("[a-z0-9][a-z0-9._-]{0,127}")] | None = None
    """Build id or stock name of the template to start from."""
    steps: Annotated[tuple[BuildStep, ...], count(0, MAX_STEPS)] = ()
    start_cmd: Text = ""
    ready_cmd: Text = ""
    cpu_count: Annotated[float, positive] | None = None
    """CPUs of the template's sandboxes and of the build. None: the node's default. Likewise memory and disk (MiB)."""
    mem_mib: Quantity | None = None
    disk_mib: Quantity | None = None
    force: bool = False
    """Do not use the cache."""

    def check(self, where: str) -> None:
        """Raises: InvalidRequestError: the fields do not fit each other."""
        if (self.image is None) == (self.parent is None):
            raise InvalidRequestError(f"{where}: exactly one of image and parent is needed")

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
    return BuildStep(**{**data, "args": tuple(data["args"]), "files": None if files is None else UploadedArchive(**files)})


@dataclass(frozen=True, kw_only=True)
class BuildLogEntry:
    """One line of a build's log. ``level``: debug, info, warn or error, as in the API."""

    at: float
    level: str
    message: str
    step: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """A build's state and a window of its log. ``entries`` begin at the requested offset; the log has ``total``."""

    build_id: str
    status: BuildStatus
    total: int
    entries: tuple[BuildLogEntry, ...] = ()
    message: str = ""
    """Why the build failed."""
    step: str | None = None
    """The step that failed."""


@dataclass(frozen=True, kw_only=True)
class EndedBuild:
    """The node's event that a build ended."""

    build_id: str
    status: BuildStatus
    message: str = ""
    step: str | None = None


@dataclass(frozen=True, kw_only=True)
class Build:
    """One build of a template, or one snapshot of a sandbox, as the store keeps it. Times are seconds since the epoch, UTC."""

    build_id: str
    template_id: str
    status: BuildStatus = BuildStatus.WAITING
    created_at: float
    updated_at: float
    started_at: float | None = None
    """None: the client has not sent the build's steps yet."""
    finished_at: float | None = None
    cpu_count: float
    mem_mib: int
    disk_mib: int
    message: str = ""
    step: str | None = None
    sandbox_id: str | None = None
    """For a snapshot: the sandbox it was made from."""
    parent: str | None = None
    """The build id or stock template that it starts from."""
    uploads: tuple[str, ...] = ()
    node_id: str | None = None
    """The node that runs or ran it; None: it has not started, or a release with one unnamed node started it."""
    version: int = 1
