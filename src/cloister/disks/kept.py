"""Disks without a sandbox: closed whole, so that another sandbox can go on with them, and checked when they were not.

The file system has no journal, so one that was not unmounted may be damaged. A disk counts as whole when its superblock says so *and* the
file ``disk.closed`` is beside the image. That file is made when all of the image is stored, and removed before the image is mounted: the
superblock alone may reach the host's disk before the rest does.

Invariant: an image is never mounted from two loop devices at a time. No function here looks up a path inside a disk (I2).
Runs in: supervisor and builds, in worker threads. Needs: root.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cloister.disks import images
from cloister.errors import RuntimeFailedError
from cloister.linux.ext4 import is_clean
from cloister.linux.ext4live import sync, trim
from cloister.linux.files import copy_sparse, open_private, sync_path
from cloister.linux.loop import devices_of

__all__ = ["close_disk", "copy_disk", "is_whole", "open_disk", "settle_disk", "store_disk"]

_POLL_S = 0.002


def store_disk(disk_fd: int, timeout_s: float) -> None:
    """Write everything that programs wrote to the image file, and give unused blocks back to the host. The disk stays mounted.

    ``disk_fd`` is a detached mount of it. Raises: RuntimeFailedError (it takes too long), OSError (a write failed).
    """
    errors: list[OSError] = []
    root = os.dup(disk_fd)

    def work() -> None:
        try:
            sync(root)
            trim(root)
        except OSError as error:  # a thread's border
            errors.append(error)
        finally:
            os.close(root)

    writer = threading.Thread(target=work, name="store-disk", daemon=True)
    writer.start()
    writer.join(timeout_s)
    if writer.is_alive():
        raise RuntimeFailedError(f"the disk was not written out within {timeout_s:g} s", hint="the disk of the server is slow or failing")
    if errors:
        raise errors[0]


def close_disk(image: Path, timeout_s: float) -> None:
    """Wait until nothing has the disk open, then store the image for good, and mark it. Idempotent.

    Only for the process that mounted it: its own mount is closed, and the host has not gone down since. Raises: as :func:`settle_disk`.
    """
    settle_disk(image, timeout_s)
    if is_clean(image):
        os.close(open_private(_mark_of(image)))
        sync_path(image.parent)


def settle_disk(image: Path, timeout_s: float) -> None:
    """Wait until nothing has the disk open, then store the image as it is.

    Raises: FileNotFoundError, RuntimeFailedError (something still has it open), OSError.
    """
    _wait_detached(image, timeout_s)
    for path in (image, image.parent, image.parent.parent):
        sync_path(path)


def is_whole(image: Path) -> bool:
    """Whether the image can be mounted as it is. Raises: OSError."""
    return _mark_of(image).exists() and is_clean(image)


def open_disk(image: Path, check: Callable[[], None], timeout_s: float) -> int:
    """Mount a disk that was closed, or that a crash left; gives a detached mount, which the caller closes.

    ``check`` repairs the image if it is not whole, or raises. Raises: RuntimeFailedError (something still has it open), IsolationError,
    OSError.
    """
    _wait_detached(image, timeout_s)
    if not is_whole(image):
        check()
    mark = _mark_of(image)
    if mark.exists():
        mark.unlink()
        sync_path(image.parent)  # before the first write to the image
    return images.mount_disk(image)


def copy_disk(image: Path, target: Path) -> None:
    """Copy a disk that is whole, in which nothing changes now; the copy is whole too. Raises: RuntimeFailedError, OSError."""
    if not is_whole(image):
        raise RuntimeFailedError("the disk that was to be copied is not whole")
    copy_sparse(image, target)
    os.close(open_private(_mark_of(target)))


def _mark_of(image: Path) -> Path:
    return image.with_suffix(".closed")


def _wait_detached(image: Path, timeout_s: float) -> None:
    """The kernel unmounts a disk a moment after its last process has ended."""
    deadline = time.monotonic() + timeout_s
    while found := devices_of(image):
        if time.monotonic() > deadline:
            names = ", ".join(f"loop{number}" for number in found)
            raise RuntimeFailedError(f"the disk is still open ({names}) after {timeout_s:g} s", hint="a snapshot of it may be on its way")
        time.sleep(_POLL_S)
