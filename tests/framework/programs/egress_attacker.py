"""An egress process in an attacker's hands: gives up its rights as the real one does, then tries what it must not be able to do.

Usage: as ``cloister.processes.egress``, then a JSON object with the lists files, directories, sockets, ports and pids.
Writes a JSON object to the link: for each attempt ``"done"``, or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloister.processes.egress import prepare

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ptrace(pid: int) -> None:
    _check(_libc.ptrace(_PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, 0)
    _libc.ptrace(_PTRACE_DETACH, pid, None, None)


def _ask(path: str) -> None:
    """Speak to the supervisor. A peer that is not let in reads the end at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(path)
        sock.send(b'.{"id": 1, "method": "ping", "params": {}}')
        if not sock.recv(65536):
            raise PermissionError(errno.EACCES, "closed")


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def _enter(pid: int) -> None:
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    _check(_libc.setns(descriptor, _CLONE_NEWNET))


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 5).close()


def attempts(targets: dict[str, list[str]]) -> dict[str, Callable[[], object]]:
    """All that it tries, by name."""
    found: dict[str, Callable[[], object]] = {
        "root": lambda: os.setuid(0),
        "group": lambda: os.setgroups([0]),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close(),
        "low port": lambda: socket.create_server(("127.0.0.1", 81)).close(),
        "network's settings": lambda: _open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY),
    }
    for path in targets["files"]:
        found[f"read {path}"] = partial(_open, path, os.O_RDONLY)
    for path in targets["directories"]:
        found[f"list {path}"] = partial(os.scandir, path)
        found[f"write {path}"] = partial(_open, f"{path}/attacker", os.O_WRONLY | os.O_CREAT)
    for path in targets["sockets"]:
        found[f"ask {path}"] = partial(_ask, path)
    for port in targets["ports"]:
        found[f"port {port}"] = partial(_connect, int(port))
    for pid in targets["pids"]:
        found[f"trace {pid}"] = partial(_ptrace, int(pid))
        found[f"signal {pid}"] = partial(os.kill, int(pid), 0)
        found[f"memory {pid}"] = partial(_open, f"/proc/{pid}/mem", os.O_RDONLY)
        found[f"environment {pid}"] = Path(f"/proc/{pid}/environ").read_bytes
        found[f"network {pid}"] = partial(_enter, int(pid))
    return found


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "done"


def main() -> None:
    """Try everything and tell."""
    link = prepare(sys.argv[1:])
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    told = {name: _outcome(attempt) for name, attempt in attempts(json.loads(sys.argv[7])).items()}
    told |= {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Groups")}
    told["descriptors"] = " ".join(sorted({path.name for path in Path("/proc/self/fd").iterdir()} - {"0", "1", "2", str(link.fileno())}))
    link.sendall(json.dumps(told).encode())


if __name__ == "__main__":
    main()
