"""Disks made ahead: a few empty, mounted ones of the size that was asked for last, so that a creation does not wait for the kernel.

Owns the images in its directory and the detached mounts that hold their loop devices. A ready disk is empty and belongs to no sandbox; it
is id-mapped once, when a sandbox takes it. Disks are made only while none is taken, so that a burst of creations has the processors.
Invariant I8: the kernel frees mounts and loop devices when the supervisor dies; the images are removed at the next start.
Runs in: supervisor and builds, any thread. Needs: root.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cloister.disks import images
from cloister.errors import CloisterError
from cloister.linux.files import make_directory

__all__ = ["Disks"]

_QUIET_S = 0.1


@dataclass(frozen=True)
class _Ready:
    image: Path
    fd: int

    def discard(self) -> None:
        """Remove it: no sandbox has used it."""
        os.close(self.fd)
        self.image.unlink(missing_ok=True)


class Disks:
    """At most ``depth`` ready disks, all of one size. Thread-safe."""

    def __init__(self, directory: Path, tell: Callable[[str, dict[str, Any]], None], depth: int = 4) -> None:
        """``directory`` is on the file system of the sandboxes' own directories. Leftovers of an earlier supervisor in it are removed.

        ``tell`` logs an event with its fields.
        """
        self._tell = tell
        self._directory = directory
        self._depth = depth
        make_directory(directory)
        for left in directory.iterdir():
            left.unlink()
        self._changed = threading.Condition()
        self._ready: list[_Ready] = []
        self._kind: tuple[int, int] | None = None
        self._takes = 0
        self._is_filling = self._is_closed = False
        self._numbers = count()

    def take(self, image: Path, size_mib: int, inodes: int) -> int:
        """A new empty disk at ``image`` as a detached mount, not yet id-mapped, which the caller closes.

        Raises: IsolationError, OSError.
        """
        with self._changed:
            self._takes += 1
            others = [] if self._kind in (None, (size_mib, inodes)) else self._ready
            if others:
                self._ready = []
            self._kind = (size_mib, inodes)
            found = self._ready.pop() if self._ready else None
            if not self._is_filling and not self._is_closed:
                self._is_filling = True
                threading.Thread(target=self._fill, name="disks", daemon=True).start()
        for other in others:
            other.discard()
        if found is None:
            images.make_disk(image, size_mib, inodes)
            return images.mount_disk(image)
        try:
            found.image.rename(image)
        except OSError:
            found.discard()
            raise
        return found.fd

    def settle(self) -> None:
        """Wait until ``depth`` disks are ready, or one could not be made."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_filling)

    def close(self) -> None:
        """Remove the ready disks and make no more. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_filling)
            ready, self._ready = self._ready, []
        for one in ready:
            one.discard()

    def _fill(self) -> None:
        while (kind := self._next_kind()) is not None:
            try:
                made = self._make(kind)
            except (CloisterError, OSError) as error:  # a thread's border: the next creation makes its own disk and gets the error
                self._tell("disks.not_filled", {"error": str(error)})
                with self._changed:
                    self._is_filling = False
                    self._changed.notify_all()
                return
            with self._changed:
                is_wanted = self._kind == kind
                if is_wanted:
                    self._ready.append(made)
            if not is_wanted:
                made.discard()

    def _next_kind(self) -> tuple[int, int] | None:
        """The size to make next, once no disk was taken for a moment; None, and the thread ends, when enough are ready."""
        with self._changed:
            while not self._is_closed and len(self._ready) < self._depth:
                takes = self._takes
                self._changed.wait_for(lambda: self._is_closed, _QUIET_S)
                if self._takes == takes and not self._is_closed:
                    return self._kind
            self._is_filling = False
            self._changed.notify_all()
        return None

    def _make(self, kind: tuple[int, int]) -> _Ready:
        image = self._directory / f"{next(self._numbers)}.img"
        try:
            images.make_disk(image, *kind)
            return _Ready(image, images.mount_disk(image))
        except BaseException:
            image.unlink(missing_ok=True)
            raise
