"""The supervisor's socket against other users of the host (I5): only root and the api process can connect and are heard."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloister.node.instance import RUN_ROOT
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

PING = b'.{"id": 1, "method": "ping", "params": {}}'
CLIENT = f"""
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(5)
try:
    sock.connect(sys.argv[1])
    sock.send({PING!r})
    print(sock.recv(65536).decode() or "refused")
except OSError as error:
    print("refused", error)
"""


def socket_of(server: Server) -> Path:
    """The supervisor's socket of this server."""
    claims = (RUN_ROOT / "instances").iterdir()
    number = next(claim.name for claim in claims if claim.read_text() == str(server.data_dir.resolve()))
    return RUN_ROOT / number / "supervisor.sock"


def said(path: Path, uid: int) -> str:
    """The answer to a ping by a process of ``uid``, on the host's interpreter, which every user can run."""
    command = ["/usr/bin/python3", "-I", "-c", CLIENT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, user=uid, group=uid, extra_groups=[], cwd="/", timeout=30)
    return done.stdout.strip()


def test_user_of_the_host_cannot_speak_to_the_supervisor(server: Server) -> None:
    """The supervisor answers a ping of root, but not of an ordinary user or of the user `nobody`."""
    path = socket_of(server)
    for uid in (65534, 1000):
        assert said(path, uid).startswith("refused")
    assert '"instance"' in said(path, 0)


def test_neighbour_server_cannot_speak_to_the_supervisor(server: Server) -> None:
    """The api uid of another instance is a stranger too."""
    path = socket_of(server)
    own = Path(f"/proc/{server.child('api')}").stat().st_uid
    assert '"instance"' in said(path, own)
    assert said(path, own + (1 << 29)).startswith("refused")
