"""Programs that take one thing again and again until the kernel refuses, in a sandbox or on the host, and say how many they got.

Each is Python source that defines ``take()``, which raises OSError when there is no more. It keeps what it takes until its process ends.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from e2b_code_interpreter import Sandbox

__all__ = [
    "DATAGRAMS",
    "INOTIFY",
    "ORPHANED_LOCKS",
    "QUEUES",
    "SIGNALS",
    "TERMINALS",
    "TIMERS",
    "WATCHES",
    "count_here",
    "count_inside",
    "held",
]

_LIBC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""
SIGNALS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 1])
def take():
    check(libc.sigqueue(os.getpid(), signal.SIGRTMIN + 1, None))
"""
TIMERS = """
def take():
    check(libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())))
"""
QUEUES = """
names = iter(range(100_000))
libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
def take():
    name = b"/cloister-test-%d-%d" % (os.getpid(), next(names))
    check(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None))
    libc.mq_unlink(name)
"""
INOTIFY = """
def take():
    check(libc.inotify_init1(0))
"""
WATCHES = """
found = (os.path.join(place, name) for place, _, names in os.walk("/usr") for name in names)
paths = (path for path in found if not os.path.islink(path))
fd = None
def take():
    global fd
    if fd is None:
        fd = check(libc.inotify_init1(0))
    check(libc.inotify_add_watch(fd, next(paths).encode(), 2))
"""
TERMINALS = """
def take():
    os.openpty()
"""
LOCKS = """
import fcntl, tempfile
files = []
def take():
    number = len(files)
    files.append(None)
    if number % 2000 == 0:
        take.file = tempfile.TemporaryFile()
        take.kept = getattr(take, "kept", []) + [take.file]
    fcntl.lockf(take.file, fcntl.LOCK_EX, 1, number % 2000 * 2)
"""
ORPHANED_LOCKS = """
import fcntl, time
def take():  # a thousand locks of flock, which the one that took them leaves to a child
    if not os.fork():
        try:
            for _ in range(1000):
                fcntl.flock(os.open("/tmp/locked", os.O_RDONLY | os.O_CREAT, 0o666), fcntl.LOCK_SH)
            if not os.fork():
                time.sleep(120)
        finally:
            os._exit(0)
    os.wait()
"""
STREAMS = """
import socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
listener.bind(("127.0.0.1", 0))
listener.listen(4096)
def take():  # a connection that is never accepted, with as much as it takes; its own end is closed
    with socket.create_connection(listener.getsockname(), timeout=2) as sender:
        sender.settimeout(0.02)
        try:
            while True:
                sender.send(bytes(65536))
        except (BlockingIOError, TimeoutError):
            pass
"""
DATAGRAMS = """
import socket
sockets = []
def take():  # a mebibyte, to sockets that hold as much as they may
    if len(sockets) % 8 == 0:
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sockets[-1].bind(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(32):
            sender.sendto(bytes(32768), sockets[-1].getsockname())
    sockets.append(sockets[-1])
"""
_COUNT = """
taken = 0
for uid in USERS:
    if uid is not None:
        check(libc.setresuid(uid, uid, 0))
    try:
        while taken < MOST:
            take()
            taken += 1
    except (OSError, StopIteration):
        pass
    if uid is not None:
        check(libc.setresuid(0, 0, 0))
print(taken, flush=True)
"""
_WAIT = "import time; time.sleep(120)"


def _program(what: str, users: list[int | None], most: int) -> str:
    return _LIBC + what + _COUNT.replace("USERS", repr(users)).replace("MOST", str(most))


def count_here(what: str, most: int = 1_000_000) -> int:
    """How many the calling user of this host gets, ``most`` at most; they are given back."""
    done = subprocess.run([sys.executable, "-c", _program(what, [None], most)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def count_inside(sandbox: Sandbox, what: str, most: int = 1_000_000) -> int:
    """How many root of the sandbox gets, ``most`` at most; they are given back."""
    done = sandbox.commands.run(f"python3 -c {shlex.quote(_program(what, [None], most))}", user="root", timeout=60)
    return int(done.stdout)


@contextmanager
def held(sandbox: Sandbox, what: str, most: int = 1_000_000) -> Iterator[int]:
    """How many root of the sandbox gets that goes on as one user of it after the other; they are kept while the block lasts."""
    program = _program(what, [0, 1000, 1001, 1002], most) + _WAIT
    handle = sandbox.commands.run(f"python3 -c {shlex.quote(program)}", user="root", background=True, timeout=120)
    try:
        yield next(int(stdout) for stdout, _, _ in handle if stdout)
    finally:
        handle.kill()
