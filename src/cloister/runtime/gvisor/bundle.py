"""The configuration of one sandbox as ``runsc`` reads it (``config.json``), and its command line. Pure: no I/O.

The same template, size and range of host ids give the same document, apart from names, paths and environment.
Runs in: supervisor and builds. Needs: nothing. Source: OCI runtime specification 1.2; runsc flags.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cloister.protocol.agent import AGENT_PORT, DEFAULT_PATH, INTERPRETER_PORT, RELAY_PORT
from cloister.runtime.gvisor.launch import NETNS_FD, place_of
from cloister.runtime.spec import AGENT_PROGRAMS, AGENT_PYTHON, SandboxSpec

__all__ = ["config", "global_flags", "shape"]

_IDS = 65_536
_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
)  # fmt: skip
"""Those of the namespace runtime (native/caps.h). Without CAP_NET_ADMIN the sandbox cannot take another address."""
_GUEST = "/.cloister/guest/cloister-guest"


def config(spec: SandboxSpec, place: str, first_id: int) -> dict[str, Any]:
    """The document for a sandbox whose files are at ``place`` (:mod:`.launch`)."""
    mapping = [{"containerID": 0, "hostID": first_id, "size": _IDS}]
    capabilities = list(_CAPABILITIES)
    files, processes = spec.limits.open_files, spec.limits.pids
    return {
        "ociVersion": "1.2.0",
        "hostname": spec.hostname,
        "root": {"path": place_of(place, "root"), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": _arguments(spec),
            "env": [f"{name}={value}" for name, value in _environment(spec).items()],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": files, "hard": files},
                # of each user; beyond the group's bound, which is for gVisor's own threads too, the host would end the whole sandbox
                {"type": "RLIMIT_NPROC", "soft": processes, "hard": processes},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
            "noNewPrivileges": False,
        },
        "mounts": _mounts(spec, place),
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "user"},
                {"type": "network", "path": f"/proc/self/fd/{NETNS_FD}"},
            ],
            "uidMappings": mapping,
            "gidMappings": mapping,
        },
    }  # fmt: skip


def shape(spec: SandboxSpec) -> str:
    """A digest of what ``runsc restore`` demands to be as it was: arguments, capabilities and limits of the first process, and flags."""
    process = config(spec, "/", 0)["process"]
    parts = [process[name] for name in ("args", "capabilities", "rlimits", "user", "cwd")]
    return hashlib.sha256(json.dumps([*parts, global_flags(Path(), Path())]).encode()).hexdigest()[:16]


def global_flags(runsc: Path, root: Path, *, has_volumes: bool = False) -> list[str]:
    """``runsc`` with the flags of all commands; ``root`` is its directory for notes. Others change what is in volumes."""
    return [
        str(runsc),
        f"--root={root}",
        "--platform=systrap",
        "--network=sandbox",
        "--ignore-cgroups",  # the sandbox begins in the group that the node made for it
        "--overlay2=none",  # its files are on its disk, below the kernel's own overlay
        "--directfs=false",  # the sandbox's kernel opens no file itself
        f"--file-access-mounts={'shared' if has_volumes else 'exclusive'}",  # the other mounts beside the root never change
        "--allow-suid",
        "--host-settings=ignore",
        "--watchdog-action=log",
    ]


def _arguments(spec: SandboxSpec) -> list[str]:
    ports = (AGENT_PORT, INTERPRETER_PORT, RELAY_PORT)
    return [_GUEST, spec.agent_log, *map(str, ports), *AGENT_PYTHON, f"{AGENT_PROGRAMS}/main.py"]


def _environment(spec: SandboxSpec) -> dict[str, str]:
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "HOME": "/root", **spec.envs}


def _mounts(spec: SandboxSpec, place: str) -> list[dict[str, Any]]:
    sealed = ["ro", "nosuid", "nodev"]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "nodev", "noexec", "ro"]},
        {
            "destination": "/dev/shm",  # noqa: S108 - a place in the sandbox
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "nodev", "mode=1777", f"size={spec.limits.mem_mib << 19}"],
        },
    ]
    mounts.append(
        {
            "destination": "/proc/sys/kernel/random/boot_id",
            "type": "bind",
            "source": place_of(place, "boot_id"),
            "options": ["bind", *sealed, "noexec"],
        }
    )
    mounts += [
        {"destination": f"/.cloister/{name}", "type": "bind", "source": place_of(place, name), "options": ["rbind", *sealed]}
        for name in ("rt", "agent", "guest")
    ]
    mounts += [
        {
            "destination": mount.target,
            "type": "bind",
            "source": place_of(place, f"further/{index}"),
            "options": ["rbind", *sealed, "noexec"],
        }
        for index, mount in enumerate(spec.mounts)
    ]
    mounts += [
        {
            "destination": one.path,
            "type": "bind",
            "source": place_of(place, f"volumes/{index}"),
            "options": ["rbind", "nosuid", "nodev", *(["ro"] if one.is_read_only else [])],
        }
        for index, one in enumerate(spec.volumes)
    ]
    return mounts
