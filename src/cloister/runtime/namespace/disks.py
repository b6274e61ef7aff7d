"""Disks made ahead: a few empty, mounted ones of the size that was asked for last, so that a creation does not wait for the kernel.

Owns the images in its directory and the detached mounts that hold their loop devices. A ready disk belongs to nobody: it is empty, and it
is id-mapped to its sandbox when it is taken, once. They are made only while nobody takes any, so that a burst has the processors.
Invariant I8: the kernel frees mounts and loop devices when the supervisor dies; the images are removed at the next start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError
from cloister.runtime.namespace import rootfs

__all__ = ["Disks"]

_QUIET_S = 0.1


@dataclass(frozen=True)
class _Ready:
    image: Path
    fd: int

    def discard(self) -> None:
        """Remove it: nobody has had it."""
        os.close(self.fd)
        self.image.unlink(missing_ok=True)


class Disks:
    """At most ``depth`` ready disks, all of one size. Thread-safe."""

    def __init__(self, directory: Path, tell: Callable[[str, dict[str, Any]], None], depth: int = 4) -> None:
        """``directory`` is on the file system of the sandboxes' own directories; what an earlier supervisor left in it is removed.

        ``tell`` logs an event with its fields.
        """
        self._tell = tell
        self._directory = directory
        self._depth = depth
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            rootfs.make_disk(image, size_mib, inodes)
            return rootfs.mount_disk(image)
        try:
            found.image.rename(image)
        except OSError:
            found.discard()
            raise
        return found.fd

    def settle(self) -> None:
        """Wait until as many are ready as there shall be, or one could not be made."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_filling)

    def close(self) -> None:
        """Remove all that are ready, and make no more. Idempotent."""
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
            except (CloisterError, OSError) as error:  # a thread's border: whoever takes one makes it and gets the error
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
        """What to make, when nobody has taken one for a moment; None, and the thread is to end, when nothing is missing."""
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
            rootfs.make_disk(image, *kind)
            return _Ready(image, rootfs.mount_disk(image))
        except BaseException:
            image.unlink(missing_ok=True)
            raise
