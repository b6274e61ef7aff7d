"""Volumes: data of a team that outlives its sandboxes, and where sandboxes mount it. Plain data."""

from __future__ import annotations

import posixpath
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cloister.model.bounds import BuildId, matching, whole

__all__ = [
    "MAX_MOUNTS",
    "MAX_VOLUME_MIB",
    "MIN_VOLUME_MIB",
    "Volume",
    "VolumeMount",
    "VolumeUse",
    "inodes_of",
    "is_mount_path",
    "is_volume_name",
]

MAX_MOUNTS = 16
"""Mounts of volumes that one sandbox may have."""
MIN_VOLUME_MIB, MAX_VOLUME_MIB = 64, 16 << 20
"""The least has room for a journal; ext4 with blocks of 4 KiB can have the most."""
_INODES_PER_MIB, _MAX_INODES = 64, 64 << 20
_NAME = r"[A-Za-z0-9_-]{1,128}"
_IS_NAME = re.compile(_NAME + r"\Z")
_MAX_PATH_BYTES = 400
"""native/volumes.c has 512 bytes for a path."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEPT = ("/proc", "/sys", "/dev", "/.cloister")
"""Directories of the runtime: what is mounted there describes the sandbox."""


def is_volume_name(text: str) -> bool:
    """Whether a volume may have this name."""
    return _IS_NAME.match(text) is not None


def is_mount_path(path: str) -> bool:
    """Whether a volume may be mounted at ``path``: absolute, in its shortest form, not the root and no directory of the runtime."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return False
    if not path.startswith("/") or path.startswith("//") or path != posixpath.normpath(path) or path == "/":
        return False
    is_kept = any(path == kept or path.startswith(f"{kept}/") for kept in _KEPT)
    return size <= _MAX_PATH_BYTES and not is_kept and not _CONTROL.search(path)


def inodes_of(size_mib: int) -> int:
    """How many files and directories a volume can have: one for each 16 KiB."""
    return min(size_mib * _INODES_PER_MIB, _MAX_INODES)


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A volume in a sandbox."""

    volume_id: BuildId
    name: Annotated[str, matching(_NAME)]
    """The volume's name when the sandbox was created."""
    path: Annotated[str, whole(is_mount_path)]
    is_read_only: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VolumeMount:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume, as the store has it."""

    volume_id: str
    """A UUID."""
    team_id: str
    name: str
    """Unique in the team."""
    size_mib: int
    created_at: float
    """Seconds since the epoch, UTC."""
    is_ready: bool = False
    """Whether it can be used: its image is there."""
    node_id: str | None = None
    """The node that has it; None: the only one."""


@dataclass(frozen=True, kw_only=True)
class VolumeUse:
    """A volume, as its node has it."""

    volume_id: str
    size_bytes: int
    used_bytes: int
    """Of files, while it is mounted; else what its image takes of the host's disk."""
    files: int | None
    """Files and directories; None: it is not mounted."""
    sandboxes: int
    """Sandboxes that hold it."""
