"""A zygote's loop: forks children into sandboxes when the supervisor asks. The contract is in docs/decisions/0014-zygotes.md.

Shared by the agent zygote and the kernel zygote, so it runs on any template's Python 3.9 or newer with the standard library alone. It
knows nothing of what its children become. Invariant: a child returns from :func:`serve` with the power of a sandbox's root, one
descriptor beside its standard ones (the birth socket), and no other way to the zygote or the supervisor.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import socket
from pathlib import Path
from typing import Any

__all__ = ["ZygoteUnfitError", "serve"]

_CONTROL_FD, _FILTER_FD, _LIBRARY_FD = 3, 4, 5
_NAMESPACES = ("net", "pid", "user", "mnt", "ipc", "uts", "cgroup", "time")
_FILTER_INSTRUCTION_BYTES = 8
_MAX_GROUP_FILES = 8
_MAX_FDS = 32


class ZygoteUnfitError(Exception):
    """Its children would share something, or would not be whole."""


class _Join(ctypes.Structure):
    """``struct join`` of join.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _NAMESPACES),
        ("own_pid", ctypes.c_int32),
        ("birth", ctypes.c_int32),
        ("group_files", ctypes.c_int32 * _MAX_GROUP_FILES),
        ("filter_length", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("filter", ctypes.c_void_p),
        ("step", ctypes.c_char_p),
        ("nofile", ctypes.c_uint64),
        ("cpus", ctypes.c_uint64 * 16),
        ("fork", ctypes.c_void_p),
        ("child", ctypes.c_int64),
        ("context", ctypes.c_uint64 * 8),
    )


class _Forker:
    """join.so, and what every fork needs of it."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(f"/proc/self/fd/{_LIBRARY_FD}")
        self._call = library.cloister_fork
        self._call.argtypes, self._call.restype = (ctypes.POINTER(_Join),), ctypes.c_int64
        text = os.pread(_FILTER_FD, os.fstat(_FILTER_FD).st_size, 0)
        self._filter = ctypes.create_string_buffer(text, len(text))
        self._join = _Join(filter_length=len(text) // _FILTER_INSTRUCTION_BYTES, filter=ctypes.addressof(self._filter))
        self._join.fork = ctypes.cast(ctypes.CDLL(None).fork, ctypes.c_void_p).value
        self._join.own_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child"):
            getattr(ctypes.pythonapi, f"PyOS_{name}").restype = None

    def fork(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        """None in the child; in the zygote the answer to the supervisor."""
        join = self._join
        for name, fd in zip((*_NAMESPACES, "birth"), fds):  # noqa: B905  # strict= came with Python 3.10, and there are more descriptors
            setattr(join, name, fd)
        group_files = fds[len(_NAMESPACES) + 1 :]
        for place in range(_MAX_GROUP_FILES):
            join.group_files[place] = group_files[place] if place < len(group_files) else -1
        join.nofile = request["nofile"]
        for word in range(len(join.cpus)):
            join.cpus[word] = sum(1 << (cpu % 64) for cpu in request["cpus"] if cpu // 64 == word)
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = self._call(ctypes.byref(join))
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            return None
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        return {"pid": pid} if pid > 0 else {"error": join.error, "step": join.step.decode()}


def _check_fit() -> None:
    """Raises: ZygoteUnfitError when sandboxes forked from this process would share memory, or a thread would be missing in them."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise ZygoteUnfitError(f"the zygote has {threads} threads, and a fork keeps one")
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.split()[1].startswith("rw") and line.split()[1].endswith("s"):
            raise ZygoteUnfitError(f"the zygote has memory that its children would share: {line}")


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _flags, _address = control.recvmsg(4096, socket.CMSG_SPACE(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def serve() -> socket.socket:
    """Answer fork requests until the supervisor goes, which ends the process. Returns in a forked child only, with its birth socket.

    The caller has one thread and has frozen its heap.

    Raises: ZygoteUnfitError, OSError (not started as a zygote).
    """
    control = socket.socket(fileno=_CONTROL_FD)
    forker = _Forker()
    _check_fit()
    control.send(json.dumps({"op": "ready"}).encode())
    while True:
        data, fds = _receive(control)
        if not data:
            os._exit(0)
        answer = forker.fork(json.loads(data), fds)
        if answer is None:
            control.detach()  # the number is the birth socket's now
            return socket.socket(fileno=_CONTROL_FD)
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(answer).encode())
