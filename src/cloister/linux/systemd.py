"""The two protocols between systemd and a service: descriptors of listening sockets, and notifications of its state.

Both are a few environment variables, documented as stable, so that programs can speak them without libsystemd. Runs in: launcher.
Needs: nothing. Source: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

__all__ = ["inherited_sockets", "notify", "take_notify_address"]

_FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that the service manager passed to this process. The caller closes them.

    Removes the variables, so that no child takes the descriptors for its own.
    Raises: OSError, ValueError: a descriptor is no stream socket that listens.
    """
    pid, count, *_ = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = [socket.socket(fileno=_FIRST_FD + number) for number in range(int(count))]
    for one in found:
        one.set_inheritable(False)
        if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"descriptor {one.fileno()} is no listening stream socket")
    return found


def take_notify_address(environ: MutableMapping[str, str]) -> str:
    """The address for :func:`notify`; "": there is no service manager. Removes the variable, as children do not speak for the service."""
    return environ.pop("NOTIFY_SOCKET", "")


def notify(address: str, state: str) -> None:
    """Send ``state``, such as ``READY=1``, to the service manager at ``address``. Does nothing for "".

    Raises: OSError: it is not there.
    """
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
