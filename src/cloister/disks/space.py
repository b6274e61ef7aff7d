"""Accounts for the space that sandboxes' disks stand on: no disk accepts a byte for which there is no room (I6, I10).

Disk images are sparse files, so their sizes together may exceed the file system of the data directory. Each disk therefore has a bound,
which the kernel enforces inside it (``linux/ext4live.py``)::

    room   = free space - what disks have accepted and not yet stored - claims - floor
    bound  = what the disk holds + what is left of its promise + a part of the room that is promised to no disk

All bounds together never exceed the room, so ``write`` in a sandbox fails with ENOSPC before the host's file system is full, and what it
has accepted can be stored. A promise is the disk's size divided by ``overcommit``; it is kept free for that disk alone. :meth:`survey`
measures and sets the bounds anew. Between two surveys nothing has to be fast: a late one can refuse a write too early, never lose one.

Invariant: a disk is entered, with a bound, before a program can write to it.
Runs in: supervisor and builds, any thread. Needs: root (CAP_SYS_ADMIN, to bound and trim a mounted file system).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cloister.errors import NoCapacityError
from cloister.linux.ext4live import Filling, bound_filling, measure, trim

__all__ = ["DiskSpace", "Space", "Stock", "divide"]

_MIB = 1 << 20
_STEP = 4 * _MIB
"""A bound is raised by at least this much; it is lowered by any amount."""
_GROWING = 4 * _MIB
_HALF_LIFE_S = 30.0
_LEFT_OVER = 64 * _MIB
_FASTEST = 1 << 30
"""Bytes a second that a program is expected to write at most; a faster one may meet ENOSPC early when space is short."""
_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.05, 1.0


@dataclass(frozen=True)
class Space:
    """The result of a survey, in bytes."""

    size: int
    """Of the file system."""
    reserve: int
    """What creations leave free beside promises."""
    free: int
    """Of the file system, to a process without privileges, less what is still to be stored there."""
    promised: int
    """The unused part of the promises to disks, and claims."""
    spare: int
    """The space that is neither promised nor part of the floor; negative when promises are not covered."""
    disks: int
    is_low: bool
    """Whether creations are refused, or soon will be."""
    is_short: bool
    """Whether less than an eighth of the reserve is left for disks to share."""
    fastest: str | None
    """Of the disks that use more than their promise, the one that grew most lately."""
    interval_s: float
    """When to measure again."""


@dataclass(frozen=True)
class Stock:
    """A disk for :func:`divide`: bytes that are left of its promise, bytes that it could still take, and its growth."""

    promise: int
    capacity: int
    growth: float


def divide(room: int, stocks: Sequence[Stock]) -> list[int]:
    """How many bytes each disk may take; the sum is at most ``room``.

    Each gets its promise, or a fair part of it when even the promises exceed the room. Of the rest half goes to all, a quarter to
    those that grow, and a quarter is left for disks made before the next survey.
    """
    promised = sum(stock.promise for stock in stocks)
    if promised >= room:
        return [stock.promise * max(0, room) // promised if promised else 0 for stock in stocks]
    spare = room - promised
    base = spare // 2 // max(1, len(stocks))
    more = spare // 4 // max(1, sum(stock.growth > _GROWING for stock in stocks))
    return [min(stock.capacity, stock.promise + base + more * (stock.growth > _GROWING)) for stock in stocks]


@dataclass
class _Disk:
    name: str
    image: Path
    fd: int
    promise: int
    filling: Filling
    overhead: int = 0
    """Bytes of the file system's own that the image may come to store beside what is used: a journal."""
    stored: int = 0
    bound: int = 0
    growth: float = 0.0
    seen_at: float = field(default_factory=time.monotonic)
    left_over: int = 0
    """Unused bytes that the image stored after it was trimmed last."""
    end: Callable[[], None] | None = None
    is_gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """The bytes that count against its promise."""
        return max(self.filling.used, self.stored)

    @property
    def stock(self) -> Stock:
        """For :func:`divide`."""
        return Stock(max(0, self.promise - self.size), max(0, self.filling.total - self.filling.used), self.growth)

    def look(self) -> None:
        """Measure it. Under its lock. Raises: OSError."""
        before, now = self.size, time.monotonic()
        self.filling, self.stored = measure(self.fd), self.image.stat().st_blocks * 512
        self.growth = self.growth * 0.5 ** ((now - self.seen_at) / _HALF_LIFE_S) + max(0, self.size - before)
        self.seen_at = now

    def trim(self) -> None:
        """Give unused blocks back to the host, if there are enough of them. Under its lock. Raises: OSError."""
        if self.stored - self.filling.used > self.left_over + _LEFT_OVER:
            trim(self.fd)
            self.stored = self.image.stat().st_blocks * 512
            self.left_over = max(0, self.stored - self.filling.used)

    def set_bound(self, bound: int) -> None:
        """Raises: OSError."""
        bound_filling(os.minor(os.fstat(self.fd).st_dev), self.filling, bound)
        self.bound = bound


class DiskSpace:
    """The disks below ``directory``, which is on the file system that is accounted for. Thread-safe."""

    def __init__(self, directory: Path, reserve_mib: int, overcommit: float) -> None:
        """``reserve_mib``: space that creations leave free beside promises. Half of it is the floor, which no sandbox can take."""
        self._directory = directory
        self._reserve = reserve_mib * _MIB
        self._floor = self._reserve // 2
        self._overcommit = overcommit
        self._disks: dict[str, _Disk] = {}
        self._claims: dict[object, int] = {}
        self._pot = self._spare = 0
        self._lock = threading.Lock()
        self._surveying = threading.Lock()

    def admit(self, name: str, image: Path, fd: int, overhead: int = 0) -> None:
        """Enter a disk that nothing writes to yet, with a bound. ``fd`` stays open until :meth:`forget`.

        ``overhead``: bytes of a journal. Raises: NoCapacityError, OSError.
        """
        disk = self._measured(name, image, fd, overhead)
        if not self._enter(disk):
            self.survey()
            if not self._enter(disk):
                raise NoCapacityError(
                    f"the server has too little disk space for another sandbox: {max(0, self._spare) // _MIB} MiB are left "
                    f"beside what other sandboxes were promised, and this one is promised {disk.promise // _MIB}",
                    hint="kill sandboxes, or free space in the server's data directory (settings disk_reserve_mib, disk_overcommit)",
                )
        try:
            with disk.lock:  # a survey may have given it another bound already
                if disk.bound < disk.filling.total:
                    disk.set_bound(disk.bound)
        except BaseException:
            self.forget(name)
            raise

    def _enter(self, disk: _Disk) -> bool:
        with self._lock:
            needed = disk.stock.promise
            if needed > self._pot or self._spare - needed < self._reserve - self._floor:
                return False
            more = min(disk.stock.capacity, max(needed, self._pot // 4))
            self._pot -= more
            self._spare -= needed
            disk.bound = disk.filling.used + more
            self._disks[disk.name] = disk
        return True

    def adopt(self, name: str, image: Path, fd: int, overhead: int = 0) -> None:
        """Enter a disk that is in use already; the next survey sets its bound. Raises: OSError."""
        disk = self._measured(name, image, fd, overhead)
        disk.bound = disk.filling.total + 1  # whatever bound it has, another one is set
        with self._lock:
            self._disks[name] = disk

    def _measured(self, name: str, image: Path, fd: int, overhead: int) -> _Disk:
        status = image.stat()
        return _Disk(name, image, fd, int(status.st_size / self._overcommit), measure(fd), overhead, status.st_blocks * 512)

    def when_full(self, name: str, end: Callable[[], None]) -> None:
        """How :meth:`end` ends the sandbox of a disk."""
        with self._lock:
            if name in self._disks:
                self._disks[name].end = end

    def end(self, name: str) -> None:
        """End the sandbox of a disk, if it is there and can be ended."""
        with self._lock:
            disk = self._disks.get(name)
        if disk is not None and disk.end is not None:
            disk.end()

    def knows(self, name: str) -> bool:
        """Whether the disk is entered."""
        return name in self._disks

    def forget(self, name: str) -> None:
        """The disk is about to be closed and removed. Nothing happens when it is not entered."""
        with self._lock:
            disk = self._disks.pop(name, None)
        if disk is not None:
            with disk.lock:  # a survey that looks at it ends first
                disk.is_gone = True

    @contextmanager
    def claim(self, directory: Path, size: int) -> Iterator[None]:
        """Keep ``size`` bytes for what is written to ``directory`` within the block, if that is on this file system.

        Raises: NoCapacityError, OSError.
        """
        key = object()
        if directory.stat().st_dev != self._directory.stat().st_dev:
            yield
            return
        self.survey()
        with self._lock:
            if self._spare - size < self._reserve - self._floor:
                raise NoCapacityError(
                    f"the server has too little disk space: {size // _MIB} MiB are needed, and {max(0, self._spare) // _MIB} MiB are left "
                    f"beside what sandboxes were promised, of which {(self._reserve - self._floor) // _MIB} are a reserve",
                    hint="cloister template gc; kill sandboxes",
                )
            self._claims[key] = size
        try:
            yield
        finally:
            with self._lock:
                del self._claims[key]

    def survey(self) -> Space:
        """Measure every disk and set its bound. Some microseconds a disk. Raises: OSError."""
        with self._surveying:
            self._look()
            with self._lock:
                disks = [disk for disk in self._disks.values() if not disk.is_gone]
                stocks = [disk.stock for disk in disks]
                room = self._room(disks)
                promised = sum(stock.promise for stock in stocks)
                shares = divide(room, stocks)
                self._pot, self._spare = max(0, room - sum(shares)), room - promised
                wanted = [(disk, disk.filling.used + share) for disk, share in zip(disks, shares, strict=True)]
            self._lower(wanted)
            self._raise(wanted)
            short = [share for share, stock in zip(shares, stocks, strict=True) if share < stock.capacity]
            if short:
                _each(disks, _Disk.trim)
        beyond = [disk for disk in disks if disk.growth > 0 and disk.size > disk.promise and disk.end is not None]
        whole = os.statvfs(self._directory)
        return Space(
            size=whole.f_blocks * whole.f_frsize,
            reserve=self._reserve,
            free=room + self._floor,
            promised=promised,
            spare=self._spare,
            disks=len(disks),
            is_low=self._spare < self._reserve,
            is_short=self._spare < self._reserve // 8,
            fastest=max(beyond, key=lambda disk: disk.growth).name if beyond else None,
            interval_s=min(_MAX_INTERVAL_S, max(_MIN_INTERVAL_S, min(short) / _FASTEST)) if short else _MAX_INTERVAL_S,
        )

    def _look(self) -> list[_Disk]:
        with self._lock:
            disks = list(self._disks.values())
        _each(disks, _Disk.look)
        return disks

    def _room(self, disks: list[_Disk]) -> int:
        """After a look at the disks: what they store meanwhile is counted twice, and never not at all."""
        found = os.statvfs(self._directory)
        owed = sum(max(0, disk.filling.used + disk.overhead - disk.stored) for disk in disks)
        return found.f_bavail * found.f_frsize - owed - sum(self._claims.values()) - self._floor

    def _lower(self, wanted: list[tuple[_Disk, int]]) -> None:
        for disk, bound in wanted:
            if bound < disk.bound:
                _each([disk], partial(_Disk.set_bound, bound=bound))

    def _raise(self, wanted: list[tuple[_Disk, int]]) -> None:
        """Raise bounds, out of the room that is left when every disk fills up to the bound it has now."""
        rising = [(disk, bound) for disk, bound in wanted if bound >= disk.bound + _STEP]
        if not rising:
            return
        disks = self._look()
        with self._lock:
            left = self._room(disks) - self._pot - sum(max(0, disk.bound - disk.filling.used) for disk in disks)
        for disk, bound in rising:
            more = min(bound - disk.bound, left)
            if more >= _STEP:
                left -= more
                _each([disk], partial(_Disk.set_bound, bound=disk.bound + more))


def _each(disks: list[_Disk], work: Callable[[_Disk], None]) -> None:
    for disk in disks:
        with disk.lock:
            if not disk.is_gone:
                work(disk)
