"""Copies the upper directory of a sandbox's disk into a layer. The agent's interpreter runs this as root of the copier's sandbox.

Usage: ``upper.py SOURCE TARGET LEFT_OUT``: two directories, TARGET empty, and paths below SOURCE, one a line, that are not copied. Prints
one JSON object: ``{"entries", "bytes"}``, or ``{"error", "errno"}`` with status 1. Bytes are allocated ones; no entries means that the
sandbox wrote none. Before it looks at SOURCE it prints a line ``R`` and waits for a byte on descriptor 3. So a live sandbox is frozen
only during the copy, not while the copier starts.

Foreign code has written SOURCE; it is dead or frozen. The walk uses descriptors, one name at a time, and follows no link. From overlayfs it
copies whiteouts (device 0/0) and the marks of opaque directories, but not its notes about the layers below. It skips LEFT_OUT, files that
the runtime puts into every sandbox (mount points, its own name, the agent's log), sockets, and devices, which a sandbox cannot make. It
imports none of our modules, so it starts as fast as the interpreter.
"""

import errno
import json
import os
import stat
import sys

_MOUNT_POINTS = frozenset({".cloister", "proc", "dev", "sys"})
_OF_THE_RUNTIME = frozenset(
    {"etc/hostname", "etc/hosts", "etc/machine-id", "run/e2b/.E2B_SANDBOX_ID", "run/e2b/.E2B_TEMPLATE_ID", "var/log/cloister-agent.log"}
)
_PARENTS = frozenset({"etc", "run", "run/e2b", "var", "var/log"})
"""Directories that the runtime or overlayfs makes for those files. They are skipped if they hold nothing else and are unchanged."""
_OVERLAY = "user.overlay."
_KEPT_OVERLAY = ("user.overlay.opaque", "user.overlay.whiteout", "user.overlay.overlay.")
_GO_FD = 3
_SMALL = 256 << 10
_CHUNK = 16 << 20


class _Copy:
    """One run; counts the copied entries."""

    def __init__(self, target: int, left_out: frozenset[str]) -> None:
        self.entries = 0
        self.blocks = 0
        self._target = target
        self._left_out = left_out | _MOUNT_POINTS | _OF_THE_RUNTIME
        self._links: dict[int, str] = {}

    def directory(self, source: int, target: int, where: str) -> int:
        """Copy the entries of directory ``source`` (descriptors; ``where`` is its path without outer slashes). Gives their number."""
        count = 0
        with os.scandir(source) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path = f"{where}/{name}" if where else name
            if path in self._left_out:
                continue
            count += self._entry(source, target, name, path)
        return count

    def _entry(self, source: int, target: int, name: str, path: str) -> int:
        """Copy one entry. Gives 1, or 0 if it was skipped."""
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            return self._subdirectory(source, target, name, path, info)
        if info.st_nlink > 1 and self._link(target, name, path, info):
            return 1
        if stat.S_ISREG(info.st_mode):
            self._file(source, target, name, info)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            _own_and_date(target, name, info)
        elif stat.S_ISFIFO(info.st_mode) or (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0):
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=target)
            _own_and_date(target, name, info)
        else:
            return 0
        self._count(info)
        return 1

    def _subdirectory(self, source: int, target: int, name: str, path: str, info: os.stat_result) -> int:
        os.mkdir(name, 0o700, dir_fd=target)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=source)
        copy = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=target)
        try:
            held = self.directory(below, copy, path)
            if not held and path in _PARENTS and _is_plain(info) and not _attributes(below):
                os.rmdir(name, dir_fd=target)
                return 0
            _dress(below, copy, info)
        finally:
            os.close(below)
            os.close(copy)
        self._count(info)
        return 1

    def _file(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
        try:
            _content(below, copy, info.st_size)
            _dress(below, copy, info)
        finally:
            os.close(below)
            os.close(copy)

    def _link(self, target: int, name: str, path: str, info: os.stat_result) -> bool:
        """Make ``name`` a link to the first name of the same file; False if it is the first."""
        first = self._links.setdefault(info.st_ino, path)
        if first == path:
            return False
        try:
            os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ENOENT):
                raise
            return False  # too deep for a path, or the first name was skipped
        self.entries += 1
        return True

    def _count(self, info: os.stat_result) -> None:
        self.entries += 1
        self.blocks += info.st_blocks


def _content(source: int, target: int, size: int) -> None:
    """Copy the bytes; holes stay holes."""
    if size == 0:
        return
    if size <= _SMALL:
        data = os.read(source, size + 1)
        if len(data) == size and data.count(0) != size:
            os.write(target, data)
            return
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < at:
            copied = os.sendfile(target, source, start, min(at - start, _CHUNK))
            if not copied:
                return
            start += copied


def _dress(source: int, target: int, info: os.stat_result) -> None:
    """Set owner, attributes, mode and times of ``source``, in an order in which no step undoes another."""
    if info.st_uid or info.st_gid:
        os.fchown(target, info.st_uid, info.st_gid)
    for name, value in _attributes(source).items():
        os.setxattr(target, name, value)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _attributes(source: int) -> dict[str, bytes]:
    """The extended attributes that are copied."""
    names = os.listxattr(source)
    return {name: os.getxattr(source, name) for name in names if not name.startswith(_OVERLAY) or name.startswith(_KEPT_OVERLAY)}


def _own_and_date(directory: int, name: str, info: os.stat_result) -> None:
    if info.st_uid or info.st_gid:
        os.chown(name, info.st_uid, info.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=directory, follow_symlinks=False)


def _is_plain(info: os.stat_result) -> bool:
    return (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o755, 0, 0)


def main(source_path: str, target_path: str, left_out: str) -> int:
    """Copy, and print the result."""
    sys.setrecursionlimit(1_000_000)
    print("R", flush=True)
    if not os.read(_GO_FD, 1):
        return 1
    os.umask(0)
    source = os.open(source_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    target = os.open(target_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    copy = _Copy(target, frozenset(left_out.split("\n")))
    try:
        copy.directory(source, target, "")
        _dress(source, target, os.fstat(source))
    except OSError as error:
        print(json.dumps({"error": f"{error.strerror}: {error.filename or 'a file'}", "errno": error.errno}))
        return 1
    print(json.dumps({"entries": copy.entries, "bytes": copy.blocks * 512}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
