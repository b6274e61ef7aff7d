"""``COPY``: unpacks an uploaded archive to a step's destination, as Docker would.

::

    source in the archive     goes to
    a directory               its contents go into ``destination``, which is made
    a pattern (``src/*.py``)  likewise, for the part before the first wildcard: the client has chosen the files
    a file or a symlink       ``destination`` itself, or into it if that is a directory or ends with a slash

Existing directories keep their owner and mode; a symlink to one is followed. Existing files and symlinks are replaced, never written
through. Everything new, also a missing parent, belongs to the step's owner. The archive is read once, in bounded memory. Its digest is
checked at the end, so the caller must discard the written files if this raises.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cloister.agent.build.paths import Directories, absolute
from cloister.agent.build.users import find_user, owner_ids
from cloister.errors import BuildError, InvalidRequestError
from cloister.protocol.archive import ArchiveReader, Kind, Member

__all__ = ["Copy", "run", "source_base"]

_ARCHIVE = Path("/.cloister/context/archive")
_ETC = Path("/etc")
_WILDCARDS = frozenset("*?[{")
_Made = TypeVar("_Made")


def run(params: dict[str, Any]) -> dict[str, Any]:
    """``source``, ``destination``, ``owner`` ("" is ``user``), ``mode`` (octal or ""), ``user``, ``workdir`` ("" is the user's home),
    ``digest``. Returns how many ``members`` were copied.
    """
    user = find_user(params["user"], _ETC)
    if user is None:
        raise InvalidRequestError(f"invalid username: '{params['user']}'")
    destination = params["destination"]
    copy = Copy(
        base=source_base(params["source"]),
        target=absolute(destination, params["workdir"] or user.home, user.home),
        into=destination.endswith(("/", "/.")) or destination in (".", "..", "~"),
        owner=owner_ids(params["owner"], _ETC) if params["owner"] else (user.uid, user.gid),
        mode=int(params["mode"], 8) if params["mode"] else None,
    )
    with _ARCHIVE.open("rb") as stream:
        reader = ArchiveReader(stream)
        count = copy.take(reader)
    if reader.digest() != params["digest"]:
        raise BuildError("the uploaded archive is not the one that the build was started with: upload it again")
    if not count:
        raise InvalidRequestError(f"source path does not exist: {params['source']}")
    return {"members": count}


def source_base(source: str) -> str:
    """The part of ``source`` before the first wildcard, in the form of names in an archive: ``.`` is the whole archive."""
    parts = []
    for part in source.split("/"):
        if _WILDCARDS & set(part):
            break
        parts.append(part)
    return posixpath.normpath("/".join(parts).lstrip("/") or ".")


class Copy:
    """One copy. ``into``: the destination is a directory, whatever the source is. ``mode`` replaces that of files; directories get it with
    the right to enter wherever it has the right to read.
    """

    def __init__(self, *, base: str, target: str, into: bool, owner: tuple[int, int], mode: int | None) -> None:
        self._base = base
        self._target = target
        self._owner = owner
        self._mode = mode
        self._directories = Directories(owner)
        self._file_target = f"{target.rstrip('/')}/{posixpath.basename(base)}" if into or os.path.isdir(target) else target

    def take(self, reader: ArchiveReader) -> int:
        """Unpack the members that belong to the source. Gives their number."""
        count = 0
        for member, content in reader:
            path = self._path(member.name, is_directory=member.kind is Kind.DIRECTORY)
            if path is None:
                continue
            count += 1
            if member.kind is Kind.DIRECTORY:
                self._take_directory(path, member)
                continue
            self._directories.ensure(os.path.dirname(path))
            if member.kind is Kind.FILE:
                self._take_file(path, member, content)
            elif member.kind is Kind.SYMLINK:
                self._replace(path, partial(os.symlink, member.link, path))
                os.chown(path, *self._owner, follow_symlinks=False)
            else:
                self._take_link(path, member)
        return count

    def _path(self, name: str, *, is_directory: bool) -> str | None:
        """The path for the member of that name; None: it does not belong to the source."""
        if name == self._base:
            return self._target if is_directory else self._file_target
        if self._base == ".":
            return f"{self._target.rstrip('/')}/{name}"
        if name.startswith(f"{self._base}/"):
            return f"{self._target.rstrip('/')}/{name[len(self._base) + 1 :]}"
        return None

    def _take_directory(self, path: str, member: Member) -> None:
        if path == self._target:
            self._directories.ensure(path)
            return
        mode = member.mode if self._mode is None else self._mode | (self._mode & 0o444) >> 2
        if self._directories.ensure(path):
            os.chmod(path, mode)

    def _take_file(self, path: str, member: Member, content: Iterator[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = self._replace(path, lambda: os.open(path, flags, 0o600))
        try:
            for chunk in content:
                _write(fd, chunk)
            os.fchown(fd, *self._owner)
            os.fchmod(fd, member.mode if self._mode is None else self._mode)
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(fd)

    def _take_link(self, path: str, member: Member) -> None:
        aim = self._path(member.link, is_directory=False)
        if aim is None:
            raise InvalidRequestError(f"the archive's hard link '{member.name}' names '{member.link}', which is not in the source")
        if aim != path:
            self._replace(path, lambda: os.link(aim, path, follow_symlinks=False))

    @staticmethod
    def _replace(path: str, make: Callable[[], _Made]) -> _Made:
        """Call ``make`` at ``path``, in place of an existing file or link."""
        try:
            return make()
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                raise InvalidRequestError(f"'{path}' is a directory: a file cannot be copied over it") from None
            os.unlink(path)
            return make()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
