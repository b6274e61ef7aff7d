"""Uploaded archives on disk: ``<directory>/<team id>/<hash>/archive``, and the key that signs links for uploading.

Owns the directory. An archive comes under another name and is renamed when it is whole, so that what is there is whole. The directories
below and the archives are readable by everybody who can reach them, because the supervisor shows one to a build's sandbox; the one above
is for the api process only. Blocks; callers run it in threads.
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
    """The archives below ``directory``. Call :meth:`open` first. Ids and hashes are plain names: the caller checks them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / ".incoming"
        self.key = b""
        """Signs links; the same as long as the directory lives."""

    def open(self) -> None:
        """Make the directory, remove what was coming in when the process died, and read the key. Raises: OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700)
        path, new = self._directory / ".key", self._incoming / "key"
        if not path.exists():
            with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)  # whole or not at all: with half a key no server would start here again
        self.key = path.read_bytes()
        if len(self.key) != _KEY_BYTES:
            raise OSError(f"{path} is damaged; remove it")

    def path(self, team_id: str, upload_hash: str) -> Path:
        """Where the archive is."""
        return self._directory / team_id / upload_hash / "archive"

    def is_there(self, team_id: str, upload_hash: str, size: int) -> bool:
        """Whether the archive is there, of that size."""
        try:
            return self.path(team_id, upload_hash).stat().st_size == size
        except OSError:
            return False

    def free_bytes(self) -> int:
        """Free space of the disk."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def receive(self, size: int) -> Incoming:
        """Begin to receive ``size`` bytes, for which the space is taken at once. Raises: OSError."""
        return Incoming(self._incoming / secrets.token_hex(16), size)

    def keep(self, incoming: Incoming, team_id: str, upload_hash: str) -> None:
        """Make what came in the archive of that hash, in place of one that was there. Raises: OSError."""
        path = self.path(team_id, upload_hash)
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)  # whatever the umask is
        incoming.finish(path)

    def remove(self, team_id: str, upload_hash: str) -> None:
        """Remove the archive, if it is there."""
        path = self.path(team_id, upload_hash)
        path.unlink(missing_ok=True)
        for directory in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def open_archive(self, team_id: str, upload_hash: str) -> BinaryIO:
        """The archive for reading. Raises: OSError."""
        return self.path(team_id, upload_hash).open("rb")


class Incoming:
    """An archive that comes in. End with :meth:`finish` (by way of :meth:`UploadFiles.keep`) or :meth:`drop`."""

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
        """Move it to ``path``, on disk."""
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.replace(path)

    def drop(self) -> None:
        """Remove it, if it was not finished."""
        self._file.close()
        self._path.unlink(missing_ok=True)
