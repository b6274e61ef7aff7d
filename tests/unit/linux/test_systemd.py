"""Descriptors and notifications are read and sent as systemd means them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.linux.systemd import inherited_sockets, notify, take_notify_address

_PROGRAM = """
import os, socket, sys
from cloister.linux.systemd import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    print([one.getsockname()[1] for one in inherited_sockets(os.environ)], [name for name in os.environ if name.startswith("LISTEN_")])
except ValueError as error:
    print(error)
"""


def _listening(kind: int = socket.SOCK_STREAM) -> tuple[str, int]:
    """The output of a program that gets a socket as descriptor 3, and the socket's port."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        command = ["bash", "-c", f'exec 3<&{sock.fileno()}; exec "$0" "$@"', sys.executable, "-c", _PROGRAM]
        environ = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "listen"}
        done = subprocess.run(command, pass_fds=(sock.fileno(),), env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip(), sock.getsockname()[1]


def test_a_program_takes_its_sockets_once() -> None:
    """Their variables are gone, so that children do not take the same descriptors."""
    said, port = _listening()
    assert said == f"[{port}] []"


def test_another_kind_of_socket_is_refused() -> None:
    """The server could not accept a connection on it."""
    assert "no listening stream socket" in _listening(socket.SOCK_DGRAM)[0]


def test_variables_for_another_process_mean_nothing() -> None:
    """A child that inherits them does not close descriptors of its own."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3"}
    assert inherited_sockets(environ) == []
    assert environ == {}


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_state_is_sent(tmp_path: Path, is_abstract: bool) -> None:
    """To a path, and to an abstract address, which has an @ where the kernel has a zero byte."""
    address = f"@cloister-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        environ = {"NOTIFY_SOCKET": address}
        notify(take_notify_address(environ), "READY=1")
        assert manager.recv(100) == b"READY=1"
        assert environ == {}


def test_without_a_manager_nothing_is_sent() -> None:
    """As for a server in a terminal."""
    notify(take_notify_address({}), "READY=1")
