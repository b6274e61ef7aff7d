"""Build operation ``image``: puts one layer of an OCI image into the root of this sandbox, over the layers below it.

The layer is a plain tar below ``/.cloister/context``. Its bytes must have the digest that names the layer, since other images build on the
result. Whiteouts hide entries of lower layers, never entries of the layer itself, wherever in the archive they are. Skipped, with a line
in the log: device nodes (a sandbox has its own /dev), entries inside a mount of the sandbox, attributes that it may not set.
The border is the sandbox: a hostile archive finds only the image itself in it.

Source: OCI image-spec v1.1, layer.md.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cloister.errors import InvalidRequestError

__all__ = ["MAX_ENTRIES", "Unpacker", "run"]

MAX_ENTRIES = 1_000_000
_CONTEXT = Path("/.cloister/context")
_MOUNTS = frozenset({"dev", "proc", "sys", ".cloister"})
_WHITEOUT, _OPAQUE, _META = ".wh.", ".wh..wh..opq", ".wh..wh."
_LAST_ID = 65535
_NOBODY = 65534
_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("user.", "security.capability")
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)


def run(params: dict[str, Any]) -> dict[str, Any]:
    """``blob`` is the tar's path in the context, ``diff_id`` its digest, "sha256:" and 64 hex digits. Raises: InvalidRequestError."""
    with (_CONTEXT / params["blob"]).open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if digest != params["diff_id"]:
            raise InvalidRequestError(f"the image is damaged: its layer {params['diff_id']} has the digest {digest}")
        unpacker = Unpacker(Path("/"))
        try:
            unpacker.unpack(file)
        except tarfile.TarError as error:
            raise InvalidRequestError(f"a layer of the image cannot be read: {error}") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InvalidRequestError(_full(Path("/"))) from None
            raise
    for reason, count in sorted(unpacker.skipped.items()):
        print(f"{count} {reason}", file=sys.stderr)
    return {"entries": unpacker.entries}


def _full(root: Path) -> str:
    disk = os.statvfs(root)
    what = "disk" if disk.f_ffree else "number of files of its disk"
    return f"the image does not fit: the template's {what} ({disk.f_blocks * disk.f_frsize >> 20} MiB, {disk.f_files} files) is full"


class Unpacker:
    """Applies a layer to the tree at ``root``. ``skipped`` counts skipped entries, by reason."""

    def __init__(self, root: Path, *, max_entries: int = MAX_ENTRIES, keep_owners: bool = True) -> None:
        self.entries = 0
        self.skipped: Counter[str] = Counter()
        self._root = os.fspath(root)
        self._max_entries = max_entries
        self._keep_owners = keep_owners
        self._directory_times: dict[str, int] = {}

    def unpack(self, file: IO[bytes]) -> None:
        """Apply the tar that ``file`` holds, from its beginning. Raises: InvalidRequestError, TarError, OSError."""
        for member in self._members(file):
            self._take_away(member)
        for member in self._members(file):
            self._put(member, file)
        for path, mtime in self._directory_times.items():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def _members(self, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
        file.seek(0)
        self.entries = 0
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every one of them
                self.entries += 1
                if self.entries > self._max_entries:
                    raise InvalidRequestError(f"a layer of the image has more than {self._max_entries} entries")
                yield member

    def _take_away(self, member: tarfile.TarInfo) -> None:
        folder, name = os.path.split(self._clean(member.name))
        if not name.startswith(_WHITEOUT):
            return
        parent = os.path.realpath(os.path.join(self._root, folder))
        if self._is_mount(parent):
            return
        if name == _OPAQUE:
            for entry in _listed(parent):
                if not self._is_mount(entry):
                    _remove(entry)
        elif not name.startswith(_META) and name != _WHITEOUT:
            path = os.path.join(parent, name.removeprefix(_WHITEOUT))
            if not self._is_mount(path):
                _remove(path)

    def _put(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        clean = self._clean(member.name)
        folder, name = os.path.split(clean)
        if name.startswith(_WHITEOUT):
            return
        if member.type in _DEVICES:
            self.skipped["device nodes left out: a sandbox has its own /dev"] += 1
            return
        parent = os.path.realpath(os.path.join(self._root, folder))
        path = os.path.join(parent, name) if name else self._root
        if self._is_mount(path) and name and not (member.isdir() and not folder):
            self.skipped["entries left out: they lie in /dev, /proc, /sys or /.cloister, which are the sandbox's own"] += 1
            return
        os.makedirs(parent, mode=0o755, exist_ok=True)
        if not self._make(member, path, file):
            return
        if not self._is_mount(path) and member.type != tarfile.LNKTYPE:
            self._dress(member, path)

    def _make(self, member: tarfile.TarInfo, path: str, file: IO[bytes]) -> bool:
        """Make the entry itself; False: its kind is unknown."""
        if member.isdir():
            if not _is_directory(path):
                _remove(path)
                os.mkdir(path, 0o700)
            return True
        if path == self._root:
            raise InvalidRequestError("a layer of the image replaces the root directory by something else")
        target = os.path.join(self._root, self._clean(member.linkname)) if member.islnk() else ""
        if target and os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target)) == path:
            return False  # a link to itself, which must not be removed first
        _remove(path)
        if member.isreg():
            _write(member, path, file)
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.islnk():
            self._link(member, target, path)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        else:
            self.skipped["entries left out: they are of no kind that tar(5) knows"] += 1
            return False
        return True

    def _link(self, member: tarfile.TarInfo, target: str, path: str) -> None:
        parent = os.path.realpath(os.path.dirname(target))
        try:
            if self._is_mount(parent):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            os.link(os.path.join(parent, os.path.basename(target)), path, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = (error.strerror or "").lower()
            raise InvalidRequestError(f"a layer of the image has a hard link to {member.linkname!r}: {reason}") from None

    def _dress(self, member: tarfile.TarInfo, path: str) -> None:
        """Set owner, then mode (a change of owner clears setuid), then attributes, then time."""
        if self._keep_owners:
            os.lchown(path, self._id(member.uid), self._id(member.gid))
        if not member.issym():
            os.chmod(path, stat.S_IMODE(member.mode))
        for key, text in member.pax_headers.items():
            if key.startswith(_XATTR):
                self._attribute(path, key.removeprefix(_XATTR), text.encode("utf-8", "surrogateescape"))
        mtime = max(0, int(member.mtime * 1_000_000_000))
        if member.isdir():
            self._directory_times[path] = mtime
        else:
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def _id(self, number: int) -> int:
        if 0 <= number <= _LAST_ID:
            return number
        self.skipped[f"owners replaced by {_NOBODY}: a sandbox has ids up to {_LAST_ID}"] += 1
        return _NOBODY

    def _attribute(self, path: str, name: str, value: bytes) -> None:
        if not name.startswith(_KEPT_XATTRS) or name.startswith("user.overlay."):
            return
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.skipped[f"attributes '{name}' left out: {(error.strerror or '').lower()}"] += 1

    def _clean(self, name: str) -> str:
        """Relative to the root, without empty parts. Raises: InvalidRequestError."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidRequestError(f"a layer of the image has an entry whose name leads out of it: {name!r}")
        return "/".join(parts)

    def _is_mount(self, path: str) -> bool:
        return os.path.relpath(path, self._root).split("/", 1)[0] in _MOUNTS


def _listed(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    try:
        if _is_directory(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _write(member: tarfile.TarInfo, path: str, file: IO[bytes]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as target:
        if member.issparse():
            _write_sparse(member, target, file)
        else:
            _copy(file, member.offset_data, member.size, target)


def _write_sparse(member: tarfile.TarInfo, target: IO[bytes], file: IO[bytes]) -> None:
    position = member.offset_data
    pieces: list[tuple[int, int]] = member.sparse  # type: ignore[assignment]  # as tarfile reads them, not as its types say
    for offset, size in pieces:
        target.seek(offset)
        _copy(file, position, size, target)
        position += size
    target.truncate(member.size)


def _copy(source: IO[bytes], offset: int, size: int, target: IO[bytes]) -> None:
    target.flush()
    while size > 0:
        count = os.sendfile(target.fileno(), source.fileno(), offset, min(size, 1 << 24))
        if count == 0:
            raise InvalidRequestError("a layer of the image ends in the middle of a file")
        offset, size = offset + count, size - count
