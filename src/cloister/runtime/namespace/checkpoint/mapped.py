"""Files that processes of a sandbox map from mounts that the sandbox does not have: those of the zygotes that they were forked from.

CRIU must be told of each, at the dump and at the restore. A zygote has the layers of the template, the agent's interpreter and the agent
tree, so each such file is found in one of the sandbox's own trees and opened from there again, read-only, never by a path in the sandbox.
Runs in: supervisor, in worker threads. Needs: root. Invariants: I1, I2.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import ConflictError, UnavailableError
from cloister.linux.beneath import file_beneath
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.runtime.namespace.rootfs import close_with

__all__ = ["INIT", "MappedFile", "find_mapped", "open_mapped"]

INIT = "init"
"""The name, in an image, of the program of its pid 1: the slot maker, which an upgrade of the server replaces."""
_PLACES = {"/.cloister/rt/": "usr/", "/.cloister/agent/": ""}
"""Where a zygote sees a tree, and the directory of the tree that it sees there (native/slot.c). Layers are its root."""
_LINE = re.compile(r"([0-9a-f]+-[0-9a-f]+) \S+ \S+ ([0-9a-f]+:[0-9a-f]+) (\d+) +(/.*)")


@dataclass(frozen=True, kw_only=True)
class MappedFile:
    """One file. CRIU knows it by mount and inode."""

    mount_id: int
    inode: int
    tree: str
    """The directory of the host that has it; empty: the image."""
    path: str
    """Below the tree."""

    @property
    def name(self) -> str:
        """As CRIU writes it."""
        return f"file[{self.mount_id:x}:{self.inode:x}]"


def find_mapped(pids: Iterable[int], first: int, root: int, trees: Sequence[Path]) -> list[MappedFile]:
    """All of them in the processes ``pids``, whose sandbox has ``trees``, lowest first, and the pid 1 ``first``.

    The program of ``root``, where the tree begins, is that of pid 1. Raises: ConflictError, when a file is in none of the trees.
    """
    own = {int(line.split()[0]) for line in Path(f"/proc/{first}/mountinfo").read_text().splitlines()}
    program = Path(f"/proc/{root}/exe").stat().st_ino
    links: dict[tuple[str, str], str] = {}
    for pid in pids:
        for line in _read(f"/proc/{pid}/maps").splitlines():
            match = _LINE.fullmatch(line)
            if match is not None and int(match[3]):
                links.setdefault((match[2], match[3]), f"/proc/{pid}/map_files/{_short(match[1])}")
    found: dict[tuple[int, int], MappedFile] = {}
    for link in links.values():
        seen = _look(link)
        if seen is None or seen[0] in own or (seen[0], seen[1]) in found:
            continue
        mount_id, inode, size, path = seen
        place = ("", INIT) if inode == program else _place_of(path, inode, size, tuple(trees))
        if place is None:
            if path.endswith(" (deleted)"):
                continue  # memory: CRIU saves it
            raise ConflictError(f"a process of the sandbox maps {path}, which is no file of its template any more")
        found[mount_id, inode] = MappedFile(mount_id=mount_id, inode=inode, tree=place[0], path=place[1])
    return list(found.values())


def open_mapped(files: Sequence[MappedFile], image: Path, userns_fd: int, stack: ExitStack) -> list[tuple[MappedFile, int]]:
    """Open them for the sandbox with that user namespace; ``stack`` closes them.

    From read-only mounts, because a process can open a file that it maps once more. Raises: UnavailableError, when one is gone.
    """
    flags = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV
    opened = []
    with ExitStack() as mounts:
        roots: dict[str, int] = {}
        for file in files:
            tree = Path(file.tree) if file.tree else image
            try:
                if file.tree not in roots:
                    roots[file.tree] = close_with(mounts, clone_tree(tree, flags, userns_fd=userns_fd))
                opened.append((file, close_with(stack, file_beneath(roots[file.tree], file.path))))
            except OSError as error:
                what = f"a file that the memory image needs is gone: {tree}/{file.path}: {error.strerror}"
                raise UnavailableError(what, hint="resume it without its memory") from error
    return opened


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="surrogateescape")
    except ProcessLookupError:  # a zombie
        return ""


def _short(span: str) -> str:
    """The name of a mapping in map_files: without leading zeros."""
    return "-".join(f"{int(part, 16):x}" for part in span.split("-"))


def _look(link: str) -> tuple[int, int, int, str] | None:
    """Mount, inode, size and path of what a link of /proc leads to. None: it is gone."""
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        mount_id = int(info.split("mnt_id:")[1].split()[0])
        return mount_id, status.st_ino, status.st_size, str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


@functools.lru_cache(maxsize=4096)
def _place_of(path: str, inode: int, size: int, trees: tuple[Path, ...]) -> tuple[str, str] | None:
    """The tree and the path below it. On one file system an overlay shows the inode of the layer; else the size must do.

    Trees never change, and the sandboxes of a template map the same files: most are looked up once.
    """
    second = None
    for below in _candidates(path):
        for tree in reversed(trees):
            try:
                top = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fd = file_beneath(top, below)
                finally:
                    os.close(top)
            except OSError:
                continue
            status = os.fstat(fd)
            os.close(fd)
            if status.st_ino == inode:
                return str(tree), below
            if second is None and status.st_size == size:
                second = str(tree), below
    return second


def _candidates(path: str) -> list[str]:
    """Where a file may be in a tree. The mounts of a zygote that has ended are nowhere attached: their paths begin at their own root."""
    for place, to in _PLACES.items():
        if path.startswith(place):
            return [to + path.removeprefix(place)]
    return [path.lstrip("/"), *(to + path.lstrip("/") for to in _PLACES.values() if to)]
