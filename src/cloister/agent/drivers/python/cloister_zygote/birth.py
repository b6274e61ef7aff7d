"""Turns a fresh copy of the zygote into the kernel that the agent wants, as if ``exec`` had started it ("birth" in the glossary).

The contract is docs/decisions/0014-zygotes.md, "Birth of a kernel". This module sets identity, environment, descriptors and signals. A
running interpreter cannot honour the variables of :data:`COLD_START_NAMES` and :data:`COLD_START_PREFIXES`: with one of them the child
executes the driver instead, which no other process notices. Invariant: the child uses no code and no data of the sandbox before it has
the user and the capabilities of a kernel.
"""

from __future__ import annotations

import array
import ctypes
import json
import locale
import os
import signal
import site
import socket as sockets
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloister_kernel.channel import Channel
from cloister_kernel.streams import renew_streams

__all__ = [
    "COLD_START_NAMES",
    "COLD_START_PREFIXES",
    "complete_birth",
    "needs_cold_start",
    "receive",
    "start_cold",
    "take_environment",
    "take_signals",
]

COLD_START_PREFIXES = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "OPENBLAS_", "MKL_", "KMP_", "NPY_", "NUMPY_", "PANDAS_")
"""Variables that the interpreter, the dynamic linker or a library reads once, when it starts."""
COLD_START_NAMES = frozenset({"SSLKEYLOGFILE"})
_HONOURED = frozenset(
    {
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONBREAKPOINT",
        "PYTHONSTARTUP",
        "PYTHONUNBUFFERED",
        "PYTHONIOENCODING",
        "OPENBLAS_NUM_THREADS",
    }
)
"""Of those, variables that this module honours, that are read at each use, or that do not affect a kernel."""
_CHARACTERS = ("C.UTF-8", "C.utf8")
_PR_SET_DUMPABLE = 4
_MAX_LINE = 4 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_DRIVER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "main.py")
"""A kernel that is started by exec."""


def needs_cold_start(env: Mapping[str, str]) -> bool:
    """Whether only a new interpreter can honour these variables."""
    if next((env[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if env.get(name)), "") not in _CHARACTERS:
        return True
    return any(name in COLD_START_NAMES or (name.startswith(COLD_START_PREFIXES) and name not in _HONOURED) for name in env)


def complete_birth(socket: sockets.socket, shell: Any, renew: Callable[[], None]) -> Channel:
    """Become the kernel that the agent describes; the channel is the birth socket. Ends the process if no agent adopts it."""
    take_signals()
    _take_input()
    greeting = struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
    try:
        socket.sendmsg([b"B"], [(sockets.SOL_SOCKET, sockets.SCM_CREDENTIALS, greeting)])
        document = receive(socket)
    except OSError:
        document = None
    if document is None:
        os._exit(0)
    _take_identity(document)
    os.chdir(document["cwd"])
    env = document["env"]
    if needs_cold_start(env):
        start_cold(socket, env)
    renew_streams()
    renew()
    take_environment(env)
    shell.take_home()
    channel = Channel(socket.detach())
    channel.end_in_children()
    type(shell).channel = channel
    return channel


def take_signals() -> None:
    """Handle signals as a program does that was just started."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in (signal.SIGPIPE, signal.SIGXFSZ) else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _take_input() -> None:
    """0 becomes the sandbox's own /dev/null: the zygote's is a file outside of the sandbox, with which it could not be saved."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0, inheritable=True)
    os.close(null)


def receive(socket: sockets.socket) -> dict[str, Any] | None:
    """The agent's message; its descriptors become 1 and 2. None if the agent has gone."""
    descriptors = array.array("i")
    line = b""
    while not line.endswith(b"\n"):
        data, ancillary, _, _ = socket.recvmsg(1 << 16, sockets.CMSG_SPACE(2 * descriptors.itemsize), sockets.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (sockets.SOL_SOCKET, sockets.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        line += data
        if not data or len(line) > _MAX_LINE:
            return None
    document: dict[str, Any] = json.loads(line)
    if document.get("op") != "adopt" or len(descriptors) != 2:
        return None
    for target, fd in enumerate(descriptors, start=1):
        os.dup2(fd, target, inheritable=True)
        os.close(fd)
    return document


def _take_identity(document: Mapping[str, Any]) -> None:
    """Set OOM score, umask, groups and user. A user other than root keeps no capability."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as score:
            score.write(str(document["oom_score_adj"]))
    except OSError:
        pass  # best effort, as for a kernel that is started by exec: it is only less likely to be killed first
    os.umask(0o022)
    uid, gid = document["uid"], document["gid"]
    if (uid, gid) != (os.getuid(), os.getgid()) or document["groups"] != os.getgroups():
        os.setgroups(document["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid != 0:
        _check_powerless()
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _check_powerless() -> None:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        held = [line.strip() for line in status if line.startswith(("CapPrm:", "CapEff:", "CapAmb:")) and int(line.split()[1], 16)]
    if held:
        os.write(2, f"A forked kernel kept capabilities: {', '.join(held)}\n".encode())
        os._exit(70)


def start_cold(channel: Any, env: Mapping[str, str]) -> None:
    """Become a cold kernel in the same process, on the same channel. Nothing may have been read from the channel."""
    os.set_inheritable(channel.fileno(), True)
    os.execve(sys.executable, [sys.executable, _DRIVER], {**env, "CLOISTER_KERNEL_FD": str(channel.fileno())})


def take_environment(env: Mapping[str, str]) -> None:
    """Set the variables, and the interpreter's state that depends on them at its start."""
    os.environ.clear()
    os.environ.update(env)
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    time.tzset()
    locale.setlocale(locale.LC_CTYPE, "")
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    if hasattr(sys, "orig_argv"):  # since Python 3.10
        sys.orig_argv[:] = [sys.executable, _DRIVER]
    paths = [os.path.abspath(path) for path in env.get("PYTHONPATH", "").split(os.pathsep)] if env.get("PYTHONPATH") else []
    sys.path[1:1] = [path for path in paths if path not in sys.path]
    _take_user_site()
    for finder in sys.path_importer_cache.values():  # not importlib.invalidate_caches(), which imports
        invalidate = getattr(finder, "invalidate_caches", None)
        if invalidate is not None and getattr(finder, "_path_mtime", None) != -1:  # a write to each would copy a page for each
            invalidate()


def _take_user_site() -> None:
    """Put packages of ``pip install --user`` before the system's, as ``site`` does."""
    site.USER_BASE = site.USER_SITE = None
    before = list(sys.path)
    site.ENABLE_USER_SITE = site.check_enableusersite()
    site.addusersitepackages(set(before))
    added = [path for path in sys.path if path not in before]
    system = [place for place, path in enumerate(before) if path in site.getsitepackages()]
    if added and system:
        sys.path[:] = before[: system[0]] + added + before[system[0] :]
