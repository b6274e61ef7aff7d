"""Running things inside a sandbox by way of the official SDK, as root of the sandbox or as its ordinary user."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import httpx
from e2b_code_interpreter import Sandbox

from framework.server import Server

__all__ = ["FILL_DISK", "Output", "address_of", "cgroup_of", "pids_of", "python", "reason_of_end", "shell"]

FILL_DISK = Path(__file__).with_name("programs").joinpath("fill_disk.sh").read_text()
"""A shell script: fills the disk of a sandbox, to be run as its root."""


@dataclass(frozen=True)
class Output:
    """What a script printed and its exit status."""

    text: str
    status: int


def shell(sandbox: Sandbox, script: str, *, user: str = "root", timeout: float = 60) -> Output:
    """Run a bash script inside; stdout and stderr together. ``root`` is reached from the ordinary user by sudo, as an attacker would."""
    words = shlex.quote(script)
    inner = f"su user -c {words}" if user == "user" else f"su user -c {shlex.quote(f'sudo bash -c {words}')}"
    execution = sandbox.run_code(f"{inner} 2>&1; printf '\\nstatus=%s\\n' $?", language="bash", timeout=timeout)
    assert execution.error is None, execution.error
    text, _, status = "".join(execution.logs.stdout).rpartition("\nstatus=")
    return Output(text.strip("\n"), int(status))


def python(sandbox: Sandbox, code: str, *, timeout: float = 60) -> str:
    """Run Python inside, in the default context; what it printed. Raises AssertionError when it raised."""
    execution = sandbox.run_code(code, timeout=timeout)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout).strip()


def address_of(sandbox: Sandbox) -> str:
    """The sandbox's own address."""
    return python(
        sandbox,
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('198.51.100.1', 1)); print(s.getsockname()[0])",
    )


def cgroup_of(sandbox: Sandbox, controller: str = "memory") -> Path:
    """The sandbox's control group directory on the host."""
    root = Path("/sys/fs/cgroup")
    own = root / controller if (root / controller / "cgroup.procs").exists() else root
    (found,) = own.glob(f"cloister/*/{sandbox.sandbox_id}")
    return found


def pids_of(sandbox: Sandbox) -> list[int]:
    """The sandbox's processes, as the host numbers them."""
    return [int(pid) for pid in (cgroup_of(sandbox) / "cgroup.procs").read_text().split()]


def reason_of_end(server: Server, sandbox: Sandbox) -> str:
    """Why a sandbox is gone, as the server tells whoever asks for a port of it."""
    address = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8080"}
    reason: str = httpx.get(server.url, headers=address).json()["reason"]
    return reason
