"""The manifest of a memory image: what it was made of, and what it needs to be restored. No I/O but its own file.

The image of a sandbox is a directory: CRIU's files, ``init`` (the program of pid 1) and ``manifest.json``, which is written last. Only the
supervisor writes in it, and CRIU while it dumps.
Runs in: supervisor. Needs: nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloister.errors import UnavailableError
from cloister.runtime.namespace.checkpoint.mapped import MappedFile

__all__ = ["MANIFEST", "Manifest", "cpu_features", "digest_of", "read_manifest"]

MANIFEST = "manifest.json"
FORMAT = 1
_HINT = "resume it without its memory (memory=false)"
_PAGES = re.compile(r"pages-\d+\.img")
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See above. Sizes are in bytes."""

    criu: str
    features: tuple[str, ...]
    """Of the processor: a program that has looked for one uses it."""
    trees: tuple[str, ...]
    """The directories of the host that the sandbox stood on, lowest layer first, then the agent's."""
    mapped: tuple[MappedFile, ...]
    sandbox_id: str
    hostname: str
    boot_id: str
    mem_mib: int
    """The limit of the sandbox's memory; what it used fits in it."""
    root: int
    """The process, in the image, that was the sandbox's pid 1."""
    last_pid: int
    clock_s: int
    """Where the sandbox's clock goes on."""
    sizes: dict[str, int]
    """Of every file of the image."""
    digest: str
    """Of every file but the pages of memory, whose sizes must do: reading them all would take longer than restoring them."""

    @property
    def size_bytes(self) -> int:
        """Of the whole image."""
        return sum(self.sizes.values())

    def to_json(self) -> str:
        """For its file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    def check(self, directory: Path) -> None:
        """Check that the image can be restored on this host now. Raises: UnavailableError, which says why not and what to do."""
        if lacking := sorted(set(self.features) - set(cpu_features())):
            raise _unusable(f"it was made on another processor; this one has no {', '.join(lacking[:5])}")
        for tree in self.trees:
            if not Path(tree).is_dir():
                raise _unusable(f"a layer of its template is gone: {tree}")
        found = {path.name: path.lstat().st_size for path in directory.iterdir() if path.name != MANIFEST}
        if found != self.sizes or digest_of(directory) != self.digest:
            raise _unusable("its files are not those that were written")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an image. Raises: UnavailableError: there is none, or it is of another release."""
    try:
        with (directory / MANIFEST).open("rb") as file:
            data: dict[str, Any] = json.loads(file.read(_MAX_BYTES))
        if data.pop("format") != FORMAT:
            raise _unusable("it was made by another release of the server")
        data["mapped"] = tuple(MappedFile(**one) for one in data["mapped"])
        for name in ("features", "trees"):
            data[name] = tuple(data[name])
        return Manifest(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(f"its manifest cannot be read: {error}") from error


def digest_of(directory: Path) -> str:
    """SHA-256 of the names and contents of all files but the manifest and the pages of memory."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name == MANIFEST or _PAGES.fullmatch(path.name):
            continue
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def cpu_features() -> tuple[str, ...]:
    """Features of the first processor, by the names of Linux."""
    match = re.search(r"(?m)^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    return tuple(sorted(match[1].split())) if match else ()


def _unusable(cause: str) -> UnavailableError:
    return UnavailableError(f"the sandbox's memory cannot be restored: {cause}", hint=_HINT)


