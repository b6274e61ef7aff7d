"""Facts about this kernel that CRIU has found out, kept so that it asks once for each start of the server.

A dump and a restore have different power, so each has its own file, in a file system in memory that is nowhere attached. The files are
written only while the server tries checkpoints with a sandbox of its own. Later runs get them read-only: a CRIU that a sandbox has taken
over cannot deceive the next one. Runs in: supervisor, in worker threads. Needs: root. Invariants: I1, I7, I8.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable

from cloister.linux.mounts import MountFlag, make_read_only, mount_filesystem

__all__ = ["KernelFacts"]

_NAME = "criu.kdat"
_FLAGS = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
_OPTIONS = ("mode=777", "size=1m", "nr_inodes=16")  # CRIU is a user of the sandbox, which alone reaches it, by a descriptor


class KernelFacts:
    """None yet, which CRIU may write until :meth:`close`. Holds two descriptors as long as it lives."""

    def __init__(self) -> None:
        """Raises: OSError."""
        self.of_dump = mount_filesystem("tmpfs", "tmpfs", _OPTIONS, _FLAGS)
        self.of_restore = mount_filesystem("tmpfs", "tmpfs", _OPTIONS, _FLAGS)
        weakref.finalize(self, _close_all, (self.of_dump, self.of_restore))

    def close(self) -> None:
        """From now on CRIU reads them alone. Raises: OSError."""
        for mount in (self.of_dump, self.of_restore):
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
            try:
                _keep_facts(directory)
            finally:
                os.close(directory)
            make_read_only(mount)


def _keep_facts(directory: int) -> None:
    os.fchmod(directory, 0o755)
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if name == _NAME and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.chown(name, 0, 0, dir_fd=directory, follow_symlinks=False)
            os.chmod(name, 0o644, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
