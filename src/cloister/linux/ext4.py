"""Empty ext4 images. mkfs makes the first image of each size; its non-zero pages are kept in memory and written for each new disk.

Owns the bytes of the image; must not attach or mount anything. mkfs costs a process and 6 ms of processor time. The non-zero pages of an
empty image are about 100 KiB, so a new disk is a sparse file and a dozen writes.

Every image gets its own UUID and directory hash seed. Metadata checksums depend on a seed in the superblock (``metadata_csum_seed``), not
on the UUID, so only the superblock's own checksum changes. There are no copies of the superblock (``sparse_super2`` with none).
Runs in: supervisor. Needs: mkfs.ext4 of e2fsprogs 1.47. Source: mke2fs(8), Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from cloister.errors import IsolationError

__all__ = ["EmptyImage", "empty_image", "is_clean"]

_FEATURES = "^resize_inode,metadata_csum,metadata_csum_seed,sparse_super2"
_OPTIONS = "lazy_itable_init=1,nodiscard,assume_storage_prezeroed=1,num_backup_sb=0"
_PAGE = 4096
_SUPERBLOCK = 1024  # its offset in the image
_UUID, _HASH_SEED, _CHECKSUM = 0x68, 0xEC, 0x3FC
_RANDOM = (*range(_UUID, _UUID + 16), *range(_HASH_SEED, _HASH_SEED + 16))
_MAGIC, _STATE = 0x38, 0x3A
_IS_EXT4, _IS_VALID = 0xEF53, 1
_POLYNOMIAL = 0x82F63B78  # crc32c, bits reversed
_KEPT = 64
_lock = threading.Lock()
_images: dict[tuple[int, int, int], EmptyImage] = {}


@dataclass(frozen=True)
class EmptyImage:
    """An image of ``size`` bytes, zero except for ``pieces`` (offset, bytes); the first piece has the superblock."""

    size: int
    pieces: tuple[tuple[int, bytes], ...]

    def write(self, path: Path) -> None:
        """Create the file, sparse and with mode 0600, with a new UUID and hash seed. Raises: OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, self.size)
            first = bytearray(self.pieces[0][1])
            _renew(first)
            os.pwrite(fd, first, 0)
            for offset, data in self.pieces[1:]:
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)


def empty_image(size_mib: int, inodes: int, journal_mib: int = 0) -> EmptyImage:
    """An empty ext4 of ``size_mib`` and ``inodes``, without a journal if that has no size.

    Runs mkfs once for each kind. Raises: IsolationError.
    """
    kind = (size_mib, inodes, journal_mib)
    with _lock:
        found = _images.get(kind)
        if found is None:
            if len(_images) >= _KEPT:
                del _images[next(iter(_images))]
            found = _images[kind] = _run_mkfs(size_mib, inodes, journal_mib)
    return found


def is_clean(path: Path) -> bool:
    """Whether the superblock says that the image was unmounted whole, and is without known errors. Raises: OSError."""
    with path.open("rb") as file:
        block = file.read(_SUPERBLOCK + 1024)[_SUPERBLOCK:]
    magic, state = (int.from_bytes(block[place : place + 2], "little") for place in (_MAGIC, _STATE))
    return (magic, state) == (_IS_EXT4, _IS_VALID)


def _run_mkfs(size_mib: int, inodes: int, journal_mib: int) -> EmptyImage:
    fd = os.memfd_create("ext4", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size_mib << 20)
        journal = ["-O", f"has_journal,{_FEATURES}", "-J", f"size={journal_mib}"] if journal_mib else ["-O", f"^has_journal,{_FEATURES}"]
        command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(inodes), *journal, "-E", _OPTIONS, f"/proc/self/fd/{fd}"]
        try:
            done = subprocess.run(command, pass_fds=(fd,), capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise IsolationError("there is no mkfs.ext4", step="disk", hint="install e2fsprogs 1.47 or newer") from error
        if done.returncode:
            raise IsolationError(
                f"cannot make a disk of {size_mib} MiB: {done.stderr.strip()}", step="disk", hint="install e2fsprogs 1.47 or newer"
            )
        return EmptyImage(size_mib << 20, tuple(_pieces(fd)))
    finally:
        os.close(fd)


def _pieces(fd: int) -> Iterator[tuple[int, bytes]]:
    """The non-zero parts, in whole pages."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data after this offset
                raise
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        pages = [os.pread(fd, _PAGE, offset) for offset in range(start, end, _PAGE)]
        for is_zero, group in groupby(enumerate(pages), key=lambda page: not any(page[1])):
            run = list(group)
            if not is_zero:
                yield start + run[0][0] * _PAGE, b"".join(page for _, page in run)


def _renew(first: bytearray) -> None:
    """Give the superblock in ``first`` a new UUID and hash seed, and update its checksum."""
    block = memoryview(first)[_SUPERBLOCK : _SUPERBLOCK + 1024]
    checksum = int.from_bytes(block[_CHECKSUM:], "little")
    fresh = bytearray(os.urandom(len(_RANDOM)))
    fresh[6], fresh[8] = fresh[6] & 0x0F | 0x40, fresh[8] & 0x3F | 0x80  # RFC 9562: version 4
    for place, value, weights in zip(_RANDOM, fresh, _weights(), strict=True):
        changed = block[place] ^ value
        for bit in range(8):
            if changed >> bit & 1:
                checksum ^= weights[bit]
        block[place] = value
    block[_CHECKSUM:] = checksum.to_bytes(4, "little")


@cache
def _weights() -> list[list[int]]:
    """The change of the superblock's checksum for each bit of the bytes in ``_RANDOM``. crc32c is linear, so changes combine by XOR."""
    step = [_reduce(byte) for byte in range(256)]
    found: dict[int, list[int]] = {}
    states = [step[1 << bit] for bit in range(8)]
    for place in range(_CHECKSUM - 1, _UUID - 1, -1):
        if place in _RANDOM:
            found[place] = states
        states = [state >> 8 ^ step[state & 0xFF] for state in states]
    return [found[place] for place in _RANDOM]


def _reduce(remainder: int) -> int:
    for _ in range(8):
        remainder = remainder >> 1 ^ (_POLYNOMIAL if remainder & 1 else 0)
    return remainder
