"""The SETUP packet of a slot as strings (native/slot.c reads them): what is the same for sandboxes and build steps, and what differs.

No I/O but reading /proc/cpuinfo; ids are drawn anew at each call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloister.model.resources import Limits
from cloister.runtime.namespace.procfiles import own_files, replaced_files, written_files
from cloister.runtime.spec import AGENT_PORT, DEFAULT_PATH, INTERPRETER_PORT

__all__ = ["AGENT_PYTHON", "Payload", "agent_payload", "setup_strings", "zygote_payload"]

_RT = "/.cloister/rt"
AGENT_PYTHON = (
    f"{_RT}/lib64/ld-linux-x86-64.so.2",
    "--argv0",
    f"{_RT}/bin/python3.13",
    "--library-path",
    f"{_RT}/lib/x86_64-linux-gnu",
    f"{_RT}/bin/python3.13",
    "-I",
    "-S",
)
"""The agent's own interpreter, whatever the template has."""
_AGENT = "/.cloister/agent/site/cloister/agent"
_AGENT_ZYGOTE = (*AGENT_PYTHON, f"{_AGENT}/main.py", "--zygote")
_KERNEL_ZYGOTE = "/.cloister/agent/drivers/python_zygote.py"


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What pid 1 runs. ``keep``: its descriptors from 3 on, by role or ``listen:PORT``."""

    argv: tuple[str, ...]
    envs: dict[str, str]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    restart: bool = False
    keep: tuple[str, ...] = ()
    log_path: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Files of its own, written into the writable layer before anything runs: path to content."""


def agent_payload(envs: dict[str, str], hostname: str, log_path: str) -> Payload:
    """The agent, brought back when it dies (docs/architecture.md: what a sandbox sees)."""
    return Payload(
        argv=(*AGENT_PYTHON, f"{_AGENT}/main.py"),
        envs={"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "HOME": "/root", **envs},
        restart=True,
        keep=("init", f"listen:{AGENT_PORT}", f"listen:{INTERPRETER_PORT}", "status", "once:kernel", "ends"),
        log_path=log_path,
        files=own_files(hostname),
    )


def zygote_payload(kind: str, python: str) -> Payload:
    """A zygote, ``agent`` or ``kernel`` (docs/decisions/0014-zygotes.md); a kernel's runs on the template's ``python``."""
    return Payload(
        argv=_AGENT_ZYGOTE if kind == "agent" else (python, _KERNEL_ZYGOTE),
        envs={"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "HOME": "/root"},
        keep=("control", "filter", "library"),
    )


def setup_strings(payload: Payload, limits: Limits, hostname: str, cpus: list[int]) -> list[str]:
    """Every string of the packet but the names of the descriptors. ``cpus``: the host's processors that it may run on."""
    strings = [
        f"hostname={hostname}",
        f"shm={limits.mem_mib << 19}",
        f"nofile={limits.open_files}",
        f"cpus={','.join(map(str, cpus))}",
        "oom_score_adj=500",
        f"cwd={payload.cwd}",
        f"uid={payload.uid}",
        f"gid={payload.gid}",
        f"restart={int(payload.restart)}",
    ]
    strings += [f"argv={word}" for word in payload.argv]
    strings += [f"env={name}={value}" for name, value in payload.envs.items()]
    strings += [f"keep={role}" for role in payload.keep]
    strings += [f"procfile={name}\n{content}" for name, content in replaced_files(limits, cpus).items()]
    strings += [f"write={path}\n{content}" for path, content in written_files(cpus).items()]
    strings += [f"own={path}\n{content}" for path, content in payload.files.items()]
    if payload.log_path is not None:
        strings.append(f"log={payload.log_path}")
    return strings
