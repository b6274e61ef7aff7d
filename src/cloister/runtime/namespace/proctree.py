"""The files of /proc that are the same in all sandboxes of a server (native/procfs.c: "fixed").

Owns ``<data>/node/proc-<digest>``, a tree that each sandbox sees by an overlay of its own. It has /proc/sys, apart from the parts that
belong to a sandbox's namespaces, and the files that would count the activity of the whole host. A key that is not here does not exist in
a sandbox. A tree is named by its content and never changed (I3, I8). Runs in: supervisor and builds, at their start. Needs: root.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from pathlib import Path

from cloister.linux.syscall import sync_filesystem

__all__ = ["fixed_files", "make_proc_tree"]

_PROC = Path("/proc")

_FIXED = {
    "devices": "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n",
    "filesystems": "nodev\tcgroup\nnodev\tcgroup2\nnodev\tdevpts\nnodev\tmqueue\nnodev\toverlay\nnodev\tproc\nnodev\ttmpfs\n\text4\n",
    "sys/fs/aio-max-nr": "65536",
    "sys/fs/aio-nr": "0",
    "sys/fs/dentry-state": "0\t0\t45\t0\t0\t0",
    "sys/fs/epoll/max_user_watches": "1048576",
    "sys/fs/file-max": "9223372036854775807",
    "sys/fs/file-nr": "0\t0\t9223372036854775807",
    "sys/fs/inode-nr": "0\t0",
    "sys/fs/inode-state": "0\t0\t0\t0\t0\t0\t0",
    "sys/fs/inotify/max_queued_events": "16384",
    "sys/fs/inotify/max_user_instances": "32",
    "sys/fs/inotify/max_user_watches": "16384",
    "sys/fs/lease-break-time": "45",
    "sys/fs/leases-enable": "1",
    "sys/fs/overflowgid": "65534",
    "sys/fs/overflowuid": "65534",
    "sys/fs/suid_dumpable": "0",
    "sys/kernel/core_pattern": "core",
    "sys/kernel/core_uses_pid": "0",
    "sys/kernel/ctrl-alt-del": "0",
    "sys/kernel/dmesg_restrict": "1",
    "sys/kernel/io_uring_disabled": "2",
    "sys/kernel/keys/maxbytes": "0",
    "sys/kernel/keys/maxkeys": "0",
    "sys/kernel/kptr_restrict": "2",
    "sys/kernel/msgmax": "8192",
    "sys/kernel/msgmnb": "16384",
    "sys/kernel/msgmni": "32000",
    "sys/kernel/ngroups_max": "65536",
    "sys/kernel/overflowgid": "65534",
    "sys/kernel/overflowuid": "65534",
    "sys/kernel/panic": "0",
    "sys/kernel/panic_on_oops": "0",
    "sys/kernel/perf_event_paranoid": "4",
    "sys/kernel/printk": "4\t4\t1\t7",
    "sys/kernel/pty/max": "64",
    "sys/kernel/pty/nr": "0",
    "sys/kernel/pty/reserve": "0",
    "sys/kernel/random/entropy_avail": "256",
    "sys/kernel/random/poolsize": "256",
    "sys/kernel/random/urandom_min_reseed_secs": "60",
    "sys/kernel/random/write_wakeup_threshold": "256",
    "sys/kernel/sched_autogroup_enabled": "1",
    "sys/kernel/sched_rr_timeslice_ms": "100",
    "sys/kernel/sched_rt_period_us": "1000000",
    "sys/kernel/sched_rt_runtime_us": "950000",
    "sys/kernel/sem": "32000\t1024000000\t500\t32000",
    "sys/kernel/shm_rmid_forced": "0",
    "sys/kernel/shmall": "18446744073692774399",
    "sys/kernel/shmmax": "18446744073692774399",
    "sys/kernel/shmmni": "4096",
    "sys/kernel/sysrq": "0",
    "sys/kernel/tainted": "0",
    "sys/kernel/threads-max": "65536",
    "sys/kernel/unprivileged_bpf_disabled": "2",
    "sys/kernel/unprivileged_userns_clone": "0",
    "sys/vm/dirty_background_ratio": "10",
    "sys/vm/dirty_expire_centisecs": "3000",
    "sys/vm/dirty_ratio": "20",
    "sys/vm/dirty_writeback_centisecs": "500",
    "sys/vm/drop_caches": "0",
    "sys/vm/min_free_kbytes": "4096",
    "sys/vm/nr_hugepages": "0",
    "sys/vm/nr_overcommit_hugepages": "0",
    "sys/vm/page-cluster": "3",
    "sys/vm/panic_on_oom": "0",
    "sys/vm/swappiness": "60",
    "sys/vm/vfs_cache_pressure": "100",
    "sys/vm/zone_reclaim_mode": "0",
}
"""Constants for values that the kernel counts for the whole host, or derives from its size, or that a sandbox may not use anyhow."""

_SETTINGS = (
    "sys/fs/nr_open",
    "sys/fs/pipe-max-size",
    "sys/fs/protected_fifos",
    "sys/fs/protected_hardlinks",
    "sys/fs/protected_regular",
    "sys/fs/protected_symlinks",
    "sys/kernel/arch",
    "sys/kernel/cap_last_cap",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/randomize_va_space",
    "sys/kernel/seccomp/actions_avail",
    "sys/kernel/version",
    "sys/kernel/yama/ptrace_scope",
    "sys/vm/max_map_count",
    "sys/vm/memfd_noexec",
    "sys/vm/mmap_min_addr",
    "sys/vm/overcommit_kbytes",
    "sys/vm/overcommit_memory",
    "sys/vm/overcommit_ratio",
)
"""Settings of the host that programs in a sandbox depend on, copied when the server starts if the kernel has them."""

_PLACES = (
    *("sys/net/", "sys/user/", "sys/fs/mqueue/", "sys/kernel/hostname", "sys/kernel/domainname", "sys/kernel/pid_max"),
    *("sys/kernel/random/uuid", "sys/kernel/random/boot_id"),
)
"""Paths at which native/procfs.c shows the sandbox's own. A slash at the end means a directory."""


def fixed_files(proc: Path = _PROC) -> dict[str, str]:
    """Content of files below /proc, by name. ``proc`` is the host's."""
    found = {name: text if text.endswith("\n") else text + "\n" for name, text in _FIXED.items()}
    found |= {name: (proc / name).read_text() for name in _SETTINGS if (proc / name).exists()}
    found["vmstat"] = re.sub(r"(?m)^(\S+) .*$", r"\1 0", (proc / "vmstat").read_text())
    if (proc / "cgroups").exists():  # name, hierarchy, groups in it, enabled
        found["cgroups"] = re.sub(r"(?m)^(\w+\t\d+)\t\d+\t", r"\1\t1\t", (proc / "cgroups").read_text())
    return found


def make_proc_tree(directory: Path) -> Path:
    """Make the tree in ``directory`` unless it is there; gives its root. Raises: OSError."""
    files = fixed_files()
    digest = hashlib.sha256(json.dumps([files, _PLACES], sort_keys=True).encode()).hexdigest()
    root = directory / f"proc-{digest[:16]}"
    if root.is_dir():
        return root
    work = directory / f"proc-new-{secrets.token_hex(8)}"
    for name in (*files, *_PLACES):
        path = work / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(files.get(name, ""))
            path.chmod(0o444)
    for path in (work, *(found for found in work.rglob("*") if found.is_dir())):
        path.chmod(0o555)
    sync_filesystem(directory)  # else a loss of power could leave empty files under this name
    try:
        work.rename(root)
    except OSError:  # another process has made it meanwhile
        if not root.is_dir():
            raise
        shutil.rmtree(work)
    return root
