"""Looks in a frozen sandbox, before CRIU starts, for state that a dump would lose or could not bring back.

Every check reads what the kernel says about the processes; no path is looked up in the sandbox.
Runs in: supervisor, in worker threads. Needs: root.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from cloister.errors import ConflictError
from cloister.linux.mounts import MountFlag, mount_filesystem
from cloister.linux.syscall import call
from cloister.runtime.namespace.rootfs import close_with

__all__ = ["check_size", "check_state"]

_SETNS = 308
_CLONE_NEWIPC = 0x08000000
_FILTERED = 2
_SYSV = {"shm": "shared memory", "sem": "semaphores", "msg": "message queues"}
_HINT = "keep it frozen in memory, or pause it with memory=false"


def check_state(pids: Iterable[int], root: int) -> None:
    """Check a frozen sandbox whose processes are ``pids``; its tree begins at ``root``, whose own filters do not count.

    Raises: ConflictError, which says what is in the way.
    """
    filters: set[int] = set()
    for pid in pids:
        for thread in _threads(pid):
            status = _status(f"/proc/{pid}/task/{thread}/status")
            if status is None:
                continue
            if int(status.get("TracerPid", "0")):
                raise _refused("a process of it is being traced (a debugger, strace)")
            if pid != root:
                if int(status["Seccomp"]) != _FILTERED:
                    raise _refused("a process of it is in the strict mode of seccomp")
                filters.add(int(status["Seccomp_filters"]))
    if len(filters) > 1:  # all have the runtime's; a process that has added its own has more than others
        raise _refused("a process of it has a seccomp filter of its own (a browser's or another sandbox's)")
    _in_ipc_of(root, _check_ipc)


def check_size(pids: Iterable[int], most: int) -> None:
    """Check that the memory of a frozen sandbox fits in so many bytes: CRIU writes what processes share since a fork once for each of them.

    Raises: ConflictError.
    """
    if sum(_own_memory(pid) for pid in pids) > most:
        raise _refused(f"on disk it takes more than {most >> 20} MiB, because its processes share much of it")


def _own_memory(pid: int) -> int:
    """Bytes that a process maps privately and has written to, in memory or in swap; 0 for a zombie."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kib) for kib in re.findall(r"(?m)^(?:Anonymous|Swap): +(\d+) kB$", text)) << 10


def _refused(cause: str) -> ConflictError:
    return ConflictError(f"the sandbox cannot be saved with its memory: {cause}", hint=_HINT)


def _threads(pid: int) -> list[str]:
    try:
        return [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []


def _status(path: str) -> dict[str, str] | None:
    """The fields of a status file. None: it is a zombie's, which CRIU saves as such, or gone."""
    try:
        text = Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(re.findall(r"(?m)^(\w+):\t *(.*)$", text))
    return None if fields.get("State", "Z")[0] in "ZX" else fields


def _check_ipc() -> None:
    for name, words in _SYSV.items():
        if len(Path(f"/proc/sysvipc/{name}").read_text().splitlines()) > 1:
            raise _refused(f"it uses System V {words}")
    with ExitStack() as stack:
        mount = close_with(stack, mount_filesystem("mqueue", "mqueue", (), MountFlag.READ_ONLY))
        if _has_entries(close_with(stack, os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount))):
            raise _refused("it uses POSIX message queues")


def _has_entries(directory: int) -> bool:
    with os.scandir(directory) as entries:
        return any(True for _ in entries)


def _in_ipc_of(pid: int, check: Callable[[], None]) -> None:
    """Run ``check`` on a thread of its own, which enters the ipc namespace of a process and ends."""
    outcome: Future[None] = Future()

    def body() -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
            try:
                call(_SETNS, fd, _CLONE_NEWIPC)
            finally:
                os.close(fd)
            check()
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the thread ends here; the caller raises it
            outcome.set_exception(error)

    thread = threading.Thread(target=body, name="ipc-check", daemon=True)
    thread.start()
    thread.join()
    outcome.result()
