"""Restores an image into a slot that waits for it: a sandbox of its own, which continues where the image's stood.

CRIU runs as the root of the new sandbox's user namespace, in its control group, and has no power over the host. It reads the image from a
read-only mount. Runs in: supervisor, in worker threads. Needs: root. Invariants: I1, I2, I3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cloister.errors import RuntimeFailedError
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.runtime.namespace.checkpoint.criu import Criu, Entry
from cloister.runtime.namespace.checkpoint.dump import common_words
from cloister.runtime.namespace.checkpoint.manifest import Manifest
from cloister.runtime.namespace.checkpoint.mapped import open_mapped
from cloister.runtime.namespace.rootfs import close_with

__all__ = ["restore_into"]

_NAMESPACES = ("net", "ipc", "uts", "cgroup", "time", "mnt", "user")
_TIMEOUT_S = 120.0


def restore_into(criu: Criu, image: Path, manifest: Manifest, pid: int, group: Sequence[int], cpus: Sequence[int]) -> None:
    """Restore the image in the slot whose pid 1 is ``pid`` on the host. ``group`` has the files to join its control group.

    Raises: UnavailableError, RuntimeFailedError, DeadlineError, OSError; the caller ends the slot.
    """
    with ExitStack() as stack:
        spaces = {name: close_with(stack, os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)) for name in ("pid", *_NAMESPACES)}
        flags = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
        directory = close_with(stack, clone_tree(image, flags, userns_fd=spaces["user"]))
        files = open_mapped(manifest.mapped, image, spaces["user"], stack)
        entry = Entry(
            pid_namespace=spaces["pid"],
            namespaces=tuple(spaces[name] for name in _NAMESPACES),
            image=directory,
            user=0,
            groups=tuple(group),
            cpus=tuple(cpus),
        )
        words = ["restore", "--restore-detached", *common_words(directory)]
        words += [word for file, fd in files for word in ("--inherit-fd", f"fd[{fd}]:{file.name}")]
        if errors := criu.run(words, entry, tuple(fd for _file, fd in files), _TIMEOUT_S):
            raise RuntimeFailedError(f"CRIU could not restore the sandbox: {'; '.join(errors.splitlines()[-3:])}")
