"""Uploads in parts, which a client continues after an interruption. The parts of one are a hidden file beside its target. All calls block.

A part is acknowledged when it is stored, so no crash loses one. The file appears under its name when it is whole and its checksum is right.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from cloister.agent.volume.faults import ContentFault
from cloister.agent.volume.tree import HIDDEN_PREFIX, Owner, Tree

__all__ = ["Part", "abandon", "finish", "offset_of"]

_CHUNK = 1 << 20


def _hidden(path: str) -> str:
    """The name of the file with the parts."""
    return f"{HIDDEN_PREFIX}upload-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:32]}"


@contextlib.contextmanager
def _opened(tree: Tree, path: str, flags: int) -> Iterator[int]:
    """The parts, for this user alone. Raises: FileNotFoundError, ContentFault: another request writes it."""
    with tree.parent(path) as (directory, _):
        fd = os.open(_hidden(path), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ContentFault(409, "BUSY", f"another request writes the upload of {path}") from error
        yield fd
    finally:
        os.close(fd)


def offset_of(tree: Tree, path: str) -> int:
    """How many bytes are stored; 0 if there is no upload."""
    path = tree.real_path(path)
    try:
        with tree.parent(path) as (directory, _):
            return os.stat(_hidden(path), dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


class Part:
    """One part, written chunk by chunk. A context: a part whose checksum is not right, or that did not come whole, leaves no trace."""

    def __init__(self, tree: Tree, path: str, offset: int, sha256: str | None, *, force: bool) -> None:
        self._tree, self._path, self._offset, self._wanted = tree, tree.real_path(path), offset, sha256
        self._digest = hashlib.sha256()
        self._stack = contextlib.ExitStack()
        self._fd = -1
        self._force = force

    def begin(self) -> None:
        """Raises: OSError, ContentFault: the part does not continue what is stored."""
        if self._force:
            self._tree.make_parents(self._path, Owner())
        self._fd = self._stack.enter_context(_opened(self._tree, self._path, os.O_RDWR | os.O_CREAT))
        size = os.fstat(self._fd).st_size
        if size != self._offset:
            self._stack.close()
            raise ContentFault(409, "OFFSET_MISMATCH", f"{size} bytes of {self._path} are stored; continue there")
        os.lseek(self._fd, 0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """Raises: OSError."""
        self._digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def end(self) -> int:
        """Store the part; gives the new offset. Raises: OSError, ContentFault: the checksum is not right."""
        if self._wanted is not None and self._digest.hexdigest() != self._wanted:
            raise ContentFault(400, "CHECKSUM_MISMATCH", "the part is not what its sha256 says; it was not stored")
        os.fsync(self._fd)
        return os.fstat(self._fd).st_size

    def close(self, *, keep: bool) -> None:
        """After the end, or an error. Without ``keep`` the part is taken back, unless what has come of it is of use by itself."""
        try:
            if self._fd >= 0 and not keep and self._wanted is not None:
                os.ftruncate(self._fd, self._offset)
            if self._fd >= 0 and not keep and self._wanted is None:
                os.fsync(self._fd)
        finally:
            self._fd = -1
            self._stack.close()


def finish(tree: Tree, path: str, owner: Owner, size: int, sha256: str | None, *, force: bool) -> dict[str, Any]:
    """Give the upload its name, if it is whole; gives the entry. Raises: OSError, ContentFault."""
    real = tree.real_path(path)
    with _opened(tree, real, os.O_RDWR) as fd:
        stored = os.fstat(fd).st_size
        if stored != size:
            raise ContentFault(409, "OFFSET_MISMATCH", f"{stored} of {size} bytes of {path} are stored; continue there")
        if sha256 is not None and _digest_of(fd) != sha256:
            raise ContentFault(400, "CHECKSUM_MISMATCH", f"the stored parts of {path} are not what the sha256 says")
        tree.place_hidden(_hidden(real), real, owner, force=force)
    return tree.entry(path)


def abandon(tree: Tree, path: str) -> None:
    """Forget an upload. Raises: FileNotFoundError."""
    path = tree.real_path(path)
    with tree.parent(path) as (directory, _):
        os.unlink(_hidden(path), dir_fd=directory)


def _digest_of(fd: int) -> str:
    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while chunk := os.read(fd, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
