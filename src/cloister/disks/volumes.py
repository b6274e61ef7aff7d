"""Volumes as disk images: ext4 with a journal, mounted once for all of their users, and shown to each by a mount of its own.

Owns ``<data>/node/volumes/<id>/volume.img``. A volume is attached to one loop device, and all of its mounts share one file system: locks,
watches and writes of one sandbox are seen by the others at once. The kernel enforces the size and the number of files. A crash at any
instant leaves a file system that the journal makes whole at the next mount, and what ``fsync`` has confirmed.

A supervisor that is killed while it copies leaves the file system frozen; the next one ends that before a client uses or removes it.

A user is a sandbox, or a process that serves the content; a volume stays mounted here as long as it has one. A mount in a sandbox lives as
long as that does, also without a supervisor, so a new supervisor looks for the loop device first.

Invariants: an image is never mounted from two loop devices at a time. No function here looks up a path inside a volume (I2).
Runs in: supervisor, in worker threads. Needs: root (CAP_SYS_ADMIN, to mount).
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloister.disks import images
from cloister.disks.space import DiskSpace
from cloister.errors import ConflictError, IsolationError, NotFoundError
from cloister.linux.ext4 import empty_image
from cloister.linux.ext4live import frozen, sync, thaw
from cloister.linux.files import copy_sparse, make_directory, sync_path
from cloister.linux.loop import attach_image, devices_of
from cloister.linux.mounts import MountFlag, map_mount, mount_filesystem

__all__ = ["VolumeDisks", "VolumeFilling", "journal_mib"]

_IMAGE = "volume.img"
_NEW = ".new"
"""End of the name of a directory whose image is being made."""
_OPTIONS = ("noinit_itable", "errors=remount-ro")
_SEALED = MountFlag.NO_SUID | MountFlag.NO_DEV
_ROOT_MODE = 0o777
"""Every user of every sandbox that mounts it may make files, as on an empty disk of one's own."""
_OPEN_TIMEOUT_S = 60.0
_POLL_S = 0.002
_OWN_INODES = 11
"""ext4 keeps these for itself and for the root."""
_GONE = (errno.ENXIO, errno.ENODEV, errno.ENOENT)


@dataclass(frozen=True)
class VolumeFilling:
    """Size and use of a volume, in bytes; ``files`` is None while it is not mounted."""

    size: int
    used: int
    files: int | None
    users: frozenset[str]


@dataclass
class _Volume:
    volume_id: str
    directory: Path
    fd: int | None = None
    """A detached mount, while there is a user."""
    users: set[str] = field(default_factory=set)
    is_removed: bool = False
    is_copied: bool = False
    """Whether a copy of it is being made: a file system is frozen once at a time."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def image(self) -> Path:
        return self.directory / _IMAGE

    @property
    def loop(self) -> int:
        """The number of its loop device, while it is mounted."""
        assert self.fd is not None
        return os.minor(os.fstat(self.fd).st_dev)


def journal_mib(size_mib: int) -> int:
    """The size of a volume's journal: a sixteenth, from 4 to 64 MiB."""
    return max(4, min(64, size_mib // 16))


class VolumeDisks:
    """The volumes of one node. Thread-safe."""

    def __init__(self, directory: Path, space: DiskSpace) -> None:
        """``directory`` is on the file system that ``space`` accounts for."""
        self._directory = directory
        self._space = space
        self._volumes: dict[str, _Volume] = {}
        self._making: dict[str, bool] = {}
        """Volumes that are being made; True: one that was removed meanwhile."""
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the directory, and remove volumes that a crash left unfinished. Before any other call. Raises: OSError."""
        make_directory(self._directory)
        for left in self._directory.glob(f"*{_NEW}"):
            shutil.rmtree(left)

    def ids(self) -> list[str]:
        """The volumes that there are."""
        return sorted(path.name for path in self._directory.iterdir() if (path / _IMAGE).is_file())

    def make(self, volume_id: str, size_mib: int, inodes: int) -> None:
        """Make an empty volume; one that is there already stays as it is. Raises: ConflictError, IsolationError, OSError."""
        with self._being_made(volume_id) as directory:
            if directory is None:
                return
            try:
                empty_image(size_mib, inodes, journal_mib(size_mib)).write(directory / _IMAGE)
                fd = _mount(directory / _IMAGE)
                try:
                    os.rmdir("lost+found", dir_fd=fd)  # our own empty file system: no client has seen it yet
                    os.chmod(".", _ROOT_MODE, dir_fd=fd)
                    sync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                what = f"cannot make a volume of {size_mib} MiB: {error.strerror}"
                raise IsolationError(what, step="volume", errno=error.errno or 0) from error

    def copy(self, volume_id: str, target_id: str) -> None:
        """Copy a volume as it is at one instant. Writes to the original wait meanwhile.

        Raises: NotFoundError, NoCapacityError, ConflictError: it is being copied, or the target is being made or was removed; OSError.
        """
        user = f"copy {target_id}"
        volume = self._find(volume_id)
        with self._being_made(target_id) as directory:
            if directory is None:
                return
            with self._being_copied(volume, user) as fd, frozen(fd):
                stored = volume.image.stat().st_blocks * 512  # whole: the freeze has written everything out
                with self._space.claim(self._directory, stored):
                    copy_sparse(volume.image, directory / _IMAGE)

    @contextmanager
    def _being_copied(self, volume: _Volume, user: str) -> Iterator[int]:
        with volume.lock:
            if volume.is_copied:
                raise ConflictError("the volume is being copied", hint="try again when that copy is there")
            self._use(volume, user)
            assert volume.fd is not None
            volume.is_copied, fd = True, volume.fd
        try:
            yield fd
        finally:
            volume.is_copied = False
            self.let_go(user)

    def remove(self, volume_id: str) -> bool:
        """Remove a volume and its data; False if there is none. One that is being made is never there: its maker gets an error.

        Raises: ConflictError: it has a user; OSError.
        """
        with self._lock:
            if volume_id in self._making:
                self._making[volume_id] = True
                return True
        try:
            volume = self._find(volume_id)
        except NotFoundError:
            return False
        with volume.lock:
            if volume.users:
                raise ConflictError(f"the volume is in use by {len(volume.users)} sandboxes or transfers", hint="end them first")
            _thaw_left(volume.image)
            volume.is_removed = True
            with self._lock:
                self._volumes.pop(volume_id, None)
            gone = volume.directory.with_name(f"{volume_id}{_NEW}")
            volume.directory.rename(gone)
            sync_path(self._directory)
            shutil.rmtree(gone)
        return True

    def mount(self, volume_id: str, user: str, userns_fd: int | None, *, is_read_only: bool = False) -> int:
        """Mount a volume for a user: id-mapped to its user namespace, without devices and without the effect of set-user-id files.

        Gives a detached mount, which the caller closes, and maps if it has named no namespace. The user holds the volume until
        :meth:`let_go`.
        Raises: NotFoundError, NoCapacityError, IsolationError.
        """
        volume = self._find(volume_id)
        flags = _SEALED | (MountFlag.READ_ONLY if is_read_only else MountFlag.NONE)
        try:
            with volume.lock:
                self._use(volume, user)
                fd = images.reopen_disk(volume.image, volume.loop, flags)
            try:
                if userns_fd is not None:
                    map_mount(fd, userns_fd)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise IsolationError(f"cannot mount the volume: {error.strerror}", step="volume", errno=error.errno or 0) from error
        return fd

    def device(self, volume_id: str) -> int:
        """The number of the loop device of a volume that has a user."""
        return self._find(volume_id).loop

    def devices(self, user: str, *, shared: bool = True) -> list[int]:
        """The numbers of the loop devices of a user's volumes, or only of those that no other user has."""
        with self._lock:
            volumes = list(self._volumes.values())
        found = []
        for volume in volumes:
            if user not in volume.users:  # without the lock: another volume may be slow to open
                continue
            with volume.lock:
                if user in volume.users and (shared or len(volume.users) == 1):
                    found.append(volume.loop)
        return found

    def adopt(self, volume_id: str, user: str) -> None:
        """Hold a volume that is mounted in a sandbox, which outlived another supervisor. Raises: NotFoundError, OSError, IsolationError."""
        self._use(self._find(volume_id), user)

    def let_go(self, user: str) -> None:
        """The user has no volume any more. Idempotent."""
        with self._lock:
            volumes = list(self._volumes.values())
        for volume in volumes:
            if user not in volume.users:  # without the lock: another volume may be slow to open
                continue
            with volume.lock:
                volume.users.discard(user)
                if not volume.users and volume.fd is not None:
                    self._close(volume)

    def users(self, volume_id: str) -> frozenset[str]:
        """The users of a volume."""
        with self._lock:
            volume = self._volumes.get(volume_id)
        return frozenset() if volume is None else frozenset(volume.users)

    def filling(self, volume_id: str) -> VolumeFilling:
        """Size and use of a volume. Raises: NotFoundError, OSError."""
        volume = self._find(volume_id)
        with volume.lock:
            if volume.fd is not None:
                found = os.fstatvfs(volume.fd)
                used = (found.f_blocks - found.f_bfree) * found.f_frsize
                files = max(0, found.f_files - found.f_ffree - _OWN_INODES)
                return VolumeFilling(found.f_blocks * found.f_frsize, used, files, frozenset(volume.users))
            status = volume.image.stat()
            return VolumeFilling(status.st_size, status.st_blocks * 512, None, frozenset())

    def _find(self, volume_id: str) -> _Volume:
        """Raises: NotFoundError."""
        with self._lock:
            found = self._volumes.get(volume_id)
            if found is None:
                found = _Volume(volume_id, self._directory / volume_id)
                if not found.image.is_file():
                    raise NotFoundError("the volume's data is not on this node")
                self._volumes[volume_id] = found
            return found

    def _use(self, volume: _Volume, user: str) -> None:
        """Raises: NotFoundError, NoCapacityError, IsolationError, OSError."""
        with volume.lock:
            if volume.is_removed:
                raise NotFoundError("the volume was removed")
            if volume.fd is None:
                self._open(volume)
            volume.users.add(user)

    def _open(self, volume: _Volume) -> None:
        fd, is_shared = _mount_once(volume.image)
        try:
            overhead = journal_mib(volume.image.stat().st_size >> 20) << 20
            if is_shared:
                self._space.adopt(volume.volume_id, volume.image, fd, overhead)
            else:
                self._space.admit(volume.volume_id, volume.image, fd, overhead)
        except BaseException:
            os.close(fd)
            raise
        volume.fd = fd

    def _close(self, volume: _Volume) -> None:
        """In a thread of its own: the last mount is closed when everything is written out."""
        self._space.forget(volume.volume_id)
        fd, volume.fd = volume.fd, None
        assert fd is not None
        threading.Thread(target=os.close, args=(fd,), name="close-volume", daemon=True).start()

    @contextmanager
    def _being_made(self, volume_id: str) -> Iterator[Path | None]:
        """A directory that gets its name, for good, at the end of the block. None: the volume is there already.

        Raises: ConflictError: it is being made, or it was removed meanwhile.
        """
        final = self._directory / volume_id
        with self._lock:
            if volume_id in self._making:
                raise ConflictError("the volume is being made", hint="try again when it is there")
            if is_new := not (final / _IMAGE).is_file():
                self._making[volume_id] = False
        if not is_new:
            yield None
            return
        making = final.with_name(f"{volume_id}{_NEW}")
        shutil.rmtree(making, ignore_errors=True)
        make_directory(making)
        try:
            yield making
            sync_path(making / _IMAGE)
            sync_path(making)
            with self._lock:
                if self._making[volume_id]:
                    raise ConflictError("the volume was removed while it was made")
                making.rename(final)
                del self._making[volume_id]
            sync_path(self._directory)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        finally:
            with self._lock:
                self._making.pop(volume_id, None)


def _mount(image: Path) -> int:
    with attach_image(image) as device:
        return mount_filesystem("ext4", device, _OPTIONS, _SEALED)


def _mount_once(image: Path) -> tuple[int, bool]:
    """Mount an image, from the loop device that it has already, if there is one; gives whether there was. Raises: OSError."""
    deadline = time.monotonic() + _OPEN_TIMEOUT_S
    while numbers := devices_of(image):
        try:
            fd = images.reopen_disk(image, numbers[0], _SEALED)
        except OSError as error:  # its last user has just gone
            if error.errno not in _GONE or time.monotonic() > deadline:
                raise
        else:
            _thaw(fd)
            return fd, True
        time.sleep(_POLL_S)
    return _mount(image), False


def _thaw(fd: int) -> None:
    try:
        thaw(fd)
    except BaseException:
        os.close(fd)
        raise


def _thaw_left(image: Path) -> None:
    """A frozen file system without a user would stay mounted for ever, and keep its image. Raises: OSError."""
    for number in devices_of(image):
        try:
            fd = images.reopen_disk(image, number, _SEALED)
        except OSError as error:  # it is being closed
            if error.errno not in _GONE:
                raise
        else:
            _thaw(fd)
            os.close(fd)
