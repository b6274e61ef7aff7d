"""Uploaded archives on disk, ``<directory>/<team id>/<hash>/archive``, and the key that signs upload links.

Owns the directory. An archive is written under another name and renamed when it is complete, so every archive in place is complete. The
team directories and archives are world-readable, because the supervisor mounts them into sandboxes of builds; the directory above admits
the api process only. Blocks; call it in threads.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

__all__ = ["Incoming", "UploadFiles"]

_KEY_BYTES = 32


class UploadFiles:
    """The archives below ``directory``. Call :meth:`open` first. The caller checks that ids and hashes are plain names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / ".incoming"
        self.key = b""
        """Signs links; stays the same as long as the directory exists."""

    def open(self) -> None:
        """Make the directory, remove incomplete uploads, and read the key. Raises: OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700)
        path, new = self._directory / ".key", self._incoming / "key"
        if not path.exists():
            with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)  # atomic: a half-written key would stop every later start
        self.key = path.read_bytes()
        if len(self.key) != _KEY_BYTES:
            raise OSError(f"{path} is damaged; remove it")

    def path(self, team_id: str, upload_hash: str) -> Path:
        """The archive's path."""
        return self._directory / team_id / upload_hash / "archive"

    def is_there(self, team_id: str, upload_hash: str, size: int) -> bool:
        """Whether the archive exists and has that size."""
        try:
            return self.path(team_id, upload_hash).stat().st_size == size
        except OSError:
            return False

    def free_bytes(self) -> int:
        """Free bytes of the file system."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def receive(self, size: int) -> Incoming:
        """Begin an upload of ``size`` bytes; allocates the space at once. Raises: OSError."""
        return Incoming(self._incoming / secrets.token_hex(16), size)

    def keep(self, incoming: Incoming, team_id: str, upload_hash: str) -> None:
        """Make a complete upload the archive of that hash; replaces an existing one. Raises: OSError."""
        path = self.path(team_id, upload_hash)
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)  # regardless of the umask
        incoming.finish(path)

    def remove(self, team_id: str, upload_hash: str) -> None:
        """Delete the archive if it exists."""
        path = self.path(team_id, upload_hash)
        path.unlink(missing_ok=True)
        for directory in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def open_archive(self, team_id: str, upload_hash: str) -> BinaryIO:
        """Open the archive for reading. Raises: OSError."""
        return self.path(team_id, upload_hash).open("rb")


class Incoming:
    """An upload under way. End it with :meth:`UploadFiles.keep`, or :meth:`drop`."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644), "wb", buffering=0)
        try:
            if size:
                os.posix_fallocate(self._file.fileno(), 0, size)
        except BaseException:
            self.drop()
            raise

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises: OSError."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, path: Path) -> None:
        """Sync the file and move it to ``path``."""
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.replace(path)

    def drop(self) -> None:
        """Delete the file unless it was finished."""
        self._file.close()
        self._path.unlink(missing_ok=True)
