"""The SETUP packet of a slot as strings, which native/slot.c reads: the part that all slots have alike, and the part that differs.

Reads /proc/cpuinfo and does no other I/O; draws new ids at each call. Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from cloister.model.resources import Limits
from cloister.protocol.agent import AGENT_PORT, DEFAULT_PATH, INTERPRETER_PORT
from cloister.runtime.appearance import own_files
from cloister.runtime.namespace.procfiles import replaced_files, written_files
from cloister.runtime.spec import AGENT_PROGRAMS, AGENT_PYTHON

__all__ = ["Payload", "Restored", "agent_payload", "setup_strings", "shm_bytes", "zygote_payload"]

_AGENT_ZYGOTE = (*AGENT_PYTHON, f"{AGENT_PROGRAMS}/main.py", "--zygote")
_TEMPLATE_UID = 65533
"""A user of the zone that is no sandbox's: kernel zygotes run template code as it, so that no process of ours is the same user's."""
_KERNEL_ZYGOTE = "/.cloister/agent/drivers/python/zygote_main.py"


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The facts about an image that the slot needs in which it will be restored (checkpoint/manifest.py)."""

    root: int
    """The process that was pid 1; the sandbox ends with it."""
    last_pid: int
    clock_s: int


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
    has_disk: bool = False
    """The writable layer is that of an earlier sandbox. No file is written into it, because the sandbox may have put links there."""
    boot_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    restored: Restored | None = None
    """Nothing is started: the processes come from an image."""


def agent_payload(envs: dict[str, str], hostname: str, log_path: str, *, has_disk: bool = False) -> Payload:
    """The agent, brought back when it dies (docs/architecture.md: what a sandbox sees)."""
    return Payload(
        argv=(*AGENT_PYTHON, f"{AGENT_PROGRAMS}/main.py"),
        envs={"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "HOME": "/root", **envs},
        restart=True,
        keep=("init", f"listen:{AGENT_PORT}", f"listen:{INTERPRETER_PORT}", "status", "once:kernel", "ends"),
        log_path=log_path,
        files={} if has_disk else own_files(hostname),
        has_disk=has_disk,
    )


def zygote_payload(kind: str, python: str) -> Payload:
    """A zygote, ``agent`` or ``kernel`` (docs/decisions/0014-zygotes.md); a kernel's runs on the template's ``python``."""
    return Payload(
        argv=_AGENT_ZYGOTE if kind == "agent" else (python, _KERNEL_ZYGOTE),
        uid=0 if kind == "agent" else _TEMPLATE_UID,
        envs={"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "HOME": "/root"},
        keep=("control", "filter", "library"),
    )


def shm_bytes(limits: Limits) -> int:
    """The size of /dev/shm: half of the memory."""
    return limits.mem_mib << 19


def setup_strings(payload: Payload, limits: Limits, hostname: str, cpus: list[int]) -> list[str]:
    """Every string of the packet but the names of the descriptors. ``cpus``: the host's processors that it may run on."""
    strings = [
        f"hostname={hostname}",
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
    strings += [f"procfile={name}\n{content}" for name, content in replaced_files(limits, cpus, payload.boot_id).items()]
    if payload.restored is not None:
        restored = payload.restored
        strings += [f"restored={restored.root}", f"last_pid={restored.last_pid}", f"clock={restored.clock_s}"]
    if payload.has_disk:
        strings.append("kept=1")
    else:
        strings += [f"write={path}\n{content}" for path, content in written_files(cpus).items()]
    strings += [f"own={path}\n{content}" for path, content in payload.files.items()]
    if payload.log_path is not None:
        strings.append(f"log={payload.log_path}")
    return strings
