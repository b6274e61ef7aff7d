"""Messages between the supervisor, a slot maker and a slot. The diagram and the C side are in native/wire.h.

Holds no state and no policy. Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from dataclasses import dataclass

from cloister.errors import IsolationError, RuntimeFailedError

__all__ = ["SlotHandles", "list_slots", "make_mounter", "make_slot", "make_zygote", "receive_with_fds", "send_setup"]

_MAKE, _LIST, _ZYGOTE, _VOLUMES = 1, 2, 3, 4
_REQUEST = struct.Struct("<II")
_REPLY = struct.Struct("<Ii24s")
_RESULT = struct.Struct("<i60s")
_MAX_FDS = 16


@dataclass(frozen=True)
class SlotHandles:
    """The handles of a new slot, whose first process waits for :func:`send_setup` on ``control``. The caller closes them."""

    pidfd: int
    userns_fd: int
    netns_fd: int
    control: socket.socket

    def close(self) -> None:
        """Close every handle. A slot that was not set up ends."""
        self.control.close()
        for fd in (self.pidfd, self.userns_fd, self.netns_fd):
            os.close(fd)


def receive_with_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it, close-on-exec; the caller closes them."""
    data, ancillary, _flags, _address = sock.recvmsg(size, socket.CMSG_SPACE(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def make_slot(slot_maker: socket.socket, slot: int) -> SlotHandles:
    """Ask for slot number ``slot`` (1..512 of the zone). Raises: IsolationError, RuntimeFailedError, OSError."""
    pidfd, userns_fd, netns_fd, control = _ask(slot_maker, _MAKE, slot)
    return SlotHandles(pidfd, userns_fd, netns_fd, socket.socket(fileno=control))


def make_zygote(slot_maker: socket.socket) -> tuple[int, socket.socket]:
    """Ask for a process of the zone: its pidfd, and the socket on which it waits for :func:`send_setup`. Raises: as :func:`make_slot`."""
    pidfd, control = _ask(slot_maker, _ZYGOTE, 0)
    return pidfd, socket.socket(fileno=control)


def make_mounter(slot_maker: socket.socket) -> tuple[int, socket.socket]:
    """The same for a process that mounts volumes (native/volumes.c). Raises: as :func:`make_slot`."""
    pidfd, control = _ask(slot_maker, _VOLUMES, 0)
    return pidfd, socket.socket(fileno=control)


def _ask(slot_maker: socket.socket, operation: int, slot: int) -> list[int]:
    slot_maker.send(_REQUEST.pack(operation, slot))
    data, fds = receive_with_fds(slot_maker, _REPLY.size)
    if len(data) != _REPLY.size:
        raise RuntimeFailedError("the slot maker went away")
    _slot, code, step = _REPLY.unpack(data)
    if code:
        raise _refusal(code, step)
    return fds


def list_slots(slot_maker: socket.socket) -> dict[int, int]:
    """Live slots of the zone: slot number to a pidfd of its first process; the caller closes them."""
    slot_maker.send(_REQUEST.pack(_LIST, 0))
    found: dict[int, int] = {}
    while True:
        data, fds = receive_with_fds(slot_maker, _REPLY.size)
        if len(data) != _REPLY.size:
            raise RuntimeFailedError("the slot maker went away")
        slot = _REPLY.unpack(data)[0]
        if slot == 0:
            return found
        found[slot] = fds[0]


def send_setup(
    control: socket.socket, strings: list[str], fds: list[tuple[str, int]], seccomp_filter: bytes | None, timeout_s: float
) -> list[int]:
    """Set a slot up and wait until it stands. ``fds`` are (role, descriptor), kept open for the caller to close.
    A process that runs no payload gets no filter.

    When it has a ``birth`` descriptor, gives its namespaces (pid, user, mnt, ipc, uts, cgroup, time) and the end of the kernel's socket;
    the caller closes them.

    Raises: IsolationError naming the step that failed; nothing of the sandbox is left then (its first process has ended).
    """
    packet = b"".join(text.encode() + b"\0" for text in [*strings, *(f"fd={role}" for role, _ in fds)])
    control.settimeout(timeout_s)
    rights = array.array("i", [fd for _, fd in fds])
    try:
        control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        if seccomp_filter is not None:
            control.send(seccomp_filter)
        answer, namespaces = receive_with_fds(control, _RESULT.size)
    except TimeoutError as error:
        raise IsolationError("the sandbox was not set up in time", step="set-up") from error
    except ConnectionError as error:
        raise IsolationError("the sandbox ended while it was set up", step="set-up") from error
    if len(answer) != _RESULT.size:
        raise IsolationError("the sandbox ended while it was set up", step="set-up")
    code, step = _RESULT.unpack(answer)
    if code:
        raise _refusal(code, step)
    return namespaces


def _refusal(code: int, raw_step: bytes) -> IsolationError:
    step = raw_step.rstrip(b"\0").decode(errors="replace")
    return IsolationError(f"could not {step}: {os.strerror(code)}", step=step, errno=code)
