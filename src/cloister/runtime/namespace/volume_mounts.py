"""Volumes in a sandbox: as mounts for its set-up, or mounted into one that was made ahead, when a client gets it.

A mount is made here, by the host's root, and attached by a process that is root of the sandbox alone (native/volumes.c), since the place is
a path inside the sandbox (I2). Runs in: supervisor, in worker threads. Needs: root. Invariants: I2, I7.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

from cloister.disks.volumes import VolumeDisks
from cloister.errors import IsolationError
from cloister.linux.process import wait_pidfd
from cloister.model.volume import VolumeMount
from cloister.runtime.namespace import wire
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.slots import StartedSlot, end_process, volume_mounts

__all__ = ["mount_late"]

_TIMEOUT_S = 30.0


def mount_late(disks: VolumeDisks, sandbox_id: str, started: StartedSlot, volumes: Sequence[VolumeMount], *, has_run: bool) -> bool:
    """Mount volumes into a sandbox whose programs run. False: a place is one that programs may have seen; end the sandbox then.

    Such a place has something in it, or, when a template's program ``has_run``, is there at all. The sandbox holds the volumes until
    :meth:`VolumeDisks.let_go`, also after an error.
    Raises: IsolationError naming the step that failed, NotFoundError, NoCapacityError, OSError.
    """
    with ExitStack() as undo:
        namespaces = [(name, close_with(undo, _open_namespace(started, name))) for name in ("user", "mnt")]
        given = volume_mounts(disks, sandbox_id, volumes, namespaces[0][1], undo)
        pidfd, control = started.zone.make_mounter()
        undo.callback(end_process, pidfd)
        with control:
            place = "place=new" if has_run else "place=empty"
            try:
                wire.send_setup(control, [place], [*namespaces, *given], None, _TIMEOUT_S)
            except IsolationError as error:
                if error.errno == errno.EEXIST:
                    return False
                raise
    return True


def _open_namespace(started: StartedSlot, name: str) -> int:
    """A namespace of the sandbox's first process. Raises: IsolationError: it has ended, and its number may be another's; OSError."""
    fd = os.open(f"/proc/{started.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    if wait_pidfd(started.pidfd, 0):
        os.close(fd)
        raise IsolationError("the sandbox ended before its volumes were mounted", step="volume")
    return fd
