"""Adopts a kernel that the template's zygote forked for this sandbox (docs/decisions/0014-zygotes.md, "Birth of a kernel").

    kernel -> agent   "B" with SCM_CREDENTIALS: its pid, as we see it
    agent -> kernel   {"op": "adopt", …} and a newline; stdout and stderr with the first byte
    kernel -> agent   {"op": "ready"}; from here on the protocol of drivers/README.md

The kernel is no child of the agent: a pidfd says when it has ended, the pipe of pid 1 (orphans.py) says how. :func:`adopt` ends with a
process or an error within bounded time; then the caller may start a kernel by exec.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import stat
import struct

from cloister.agent.interpreter.process import OOM_SCORE, UNKNOWN_STATUS, KernelProcess, LaunchSpec, OutputPipes
from cloister.agent.orphans import Orphans
from cloister.agent.process.faults import check_cwd
from cloister.errors import UnavailableError

__all__ = ["AdoptedProcess", "adopt", "birth_socket"]

_HELLO = b"B"
_HELLO_S = 10.0
_CREDENTIALS = struct.Struct("=iII")
_STATUS_S = 0.2
"""How long pid 1 may take to report the end of a process on the pipe; it has no other work."""


class AdoptedProcess(KernelProcess):
    """A process that pid 1 reaps. Make this while the process lives."""

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, pipes: OutputPipes, orphans: Orphans) -> None:
        super().__init__(pid, pidfd, channel, pipes)
        self._orphans = orphans
        self._code: int | None = None
        self._ending = select.poll()
        self._ending.register(pidfd, select.POLLIN)

    def returncode(self) -> int | None:
        """See the base class. Right after the end of the process this waits for pid 1, once and at most ``_STATUS_S``."""
        if self._code is None and self._ending.poll(0):
            status = self._orphans.status(self.pid, _STATUS_S)
            self._code = UNKNOWN_STATUS if status is None else os.waitstatus_to_exitcode(status)
            self._orphans.forget(self.pid)
        return self._code

    def _release(self) -> None:
        self._orphans.forget(self.pid)


def birth_socket(fd: int) -> socket.socket | None:
    """The socket at an inherited descriptor, or None if there is none."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    return channel


async def adopt(channel: socket.socket, spec: LaunchSpec, orphans: Orphans, hello_s: float = _HELLO_S) -> AdoptedProcess:
    """Take over the kernel at the other end of ``channel``; a failure or a cancellation closes ``channel``.

    Raises: UnavailableError (no kernel was forked, or it has ended), InvalidRequestError (no such directory).
    """
    with contextlib.ExitStack() as undo:
        undo.callback(channel.close)
        channel.setblocking(False)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        check_cwd(spec.cwd)
        try:
            pid = await _hello(channel, hello_s)
            pidfd = os.pidfd_open(pid)
        except (OSError, TimeoutError) as error:
            raise UnavailableError("no kernel was forked for this sandbox") from error
        undo.callback(os.close, pidfd)
        orphans.watch(pid)
        undo.callback(orphans.forget, pid)
        _demand_open(channel)
        undo.callback(_kill, pidfd)
        pipes = OutputPipes()
        undo.callback(pipes.close_ours)
        try:
            await _give(channel, spec, pipes)
        except OSError as error:
            raise UnavailableError("the forked kernel ended before it was taken over") from error
        finally:
            pipes.close_theirs()
        undo.pop_all()
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    return AdoptedProcess(pid, pidfd, channel, pipes, orphans)


async def _hello(channel: socket.socket, hello_s: float) -> int:
    """The pid of the process that sends the greeting.

    Raises: OSError (it has gone, or is not visible here), TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(hello_s):
        while True:
            try:
                data, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
                break
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(channel.fileno(), _wake, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(channel.fileno())
    for level, kind, content in ancillary:
        if data == _HELLO and (level, kind, len(content)) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.size):
            pid: int = _CREDENTIALS.unpack(content)[0]
            if pid > 1 and pid != os.getpid():
                return pid
    raise ConnectionError("there was no hello of a process")


def _demand_open(channel: socket.socket) -> None:
    """Check that the kernel still holds its socket. Only it does, so the pid that was opened before is not a reused one.

    Raises: UnavailableError: it has closed the socket.
    """
    with contextlib.suppress(BlockingIOError):
        if channel.recv(1, socket.MSG_PEEK):
            return
        raise UnavailableError("the forked kernel ended before it was taken over")


async def _give(channel: socket.socket, spec: LaunchSpec, pipes: OutputPipes) -> None:
    """Send the kernel its identity and its pipes. Raises: OSError: it has gone."""
    account = spec.account
    groups = list(account.groups) if account.uid != os.getuid() else os.getgroups()  # like a started kernel of our user
    line = {"op": "adopt", "env": dict(spec.env), "cwd": spec.cwd, "uid": account.uid, "gid": account.gid, "groups": groups}
    data = json.dumps({**line, "oom_score_adj": OOM_SCORE}).encode("ascii") + b"\n"
    rights = struct.pack("=ii", pipes.their_stdout, pipes.their_stderr)
    sent = channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    if sent < len(data):
        await asyncio.get_running_loop().sock_sendall(channel, data[sent:])


def _kill(pidfd: int) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
