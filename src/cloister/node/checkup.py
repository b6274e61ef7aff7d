"""What this host can and cannot do, found by trying: the facts behind ``cloister doctor``.

Each check makes only what it removes again. It never guesses from a name: a ``/dev/kvm`` node proves nothing, a syscall that works does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.linux.cgroup import find_tree, is_writable
from cloister.linux.loop import attach_image
from cloister.linux.mounts import MountFlag, clone_tree, mount_filesystem
from cloister.linux.seccomp import compile_bpf, load_profile, skipped_names
from cloister.network.host_checks import check_host as network_findings
from cloister.runtime.namespace.rootfs import make_disk
from cloister.runtime.namespace.zone import slot_maker_binary
from cloister.template.layers import LayerStore

__all__ = ["Finding", "check_host"]

_MIN_KERNEL = (5, 19)
_MIN_FREE_MIB = 15_000
_MIN_INOTIFY = 8192
_APPARMOR_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_APPARMOR_PROFILE = Path("/etc/apparmor.d/cloister-slotmaker")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's. ``needed``: the namespace runtime cannot work without it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True


def check_host(settings: Settings) -> list[Finding]:
    """Every check, in the order in which a person would mend things."""
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("root", _root),
        ("kernel", _kernel),
        ("slot maker", _slot_maker),
        ("control groups", _cgroups),
        ("user namespaces", _user_namespaces),
        ("id-mapped mounts", _idmapped_mounts),
        ("disk images", _disk_images),
        ("seccomp", _seccomp),
        ("network", _network),
        ("inotify", _inotify),
        ("free disk", _free_disk),
        ("templates", _templates),
    ]
    found = []
    for name, check in checks:
        try:
            found.append(check(settings))
        except (OSError, CloisterError) as error:
            found.append(
                Finding(name, False, str(error), getattr(error, "hint", None) or "run it as root on a Linux host, not in a container")
            )
    return [*found, _tier("gvisor"), _tier("microvm")]


def _root(_settings: Settings) -> Finding:
    return Finding("root", os.geteuid() == 0, f"uid {os.geteuid()}", "run it with sudo")


def _kernel(_settings: Settings) -> Finding:
    release = platform.release()
    parts = release.split("-")[0].split(".")
    number = (int(parts[0]), int(parts[1]))
    return Finding("kernel", number >= _MIN_KERNEL, release, "needs Linux 5.19 or newer: id-mapped layers below overlayfs")


def _slot_maker(_settings: Settings) -> Finding:
    return Finding("slot maker", True, str(slot_maker_binary()))


def _cgroups(_settings: Settings) -> Finding:
    tree = find_tree(0)
    return Finding(
        "control groups", is_writable(), f"version {tree.version}", "mount /sys/fs/cgroup read-write; not possible in most containers"
    )


def _user_namespaces(_settings: Settings) -> Finding:
    limit = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    if _APPARMOR_SWITCH.exists() and _APPARMOR_SWITCH.read_text().strip() == "1" and not _APPARMOR_PROFILE.exists():
        remedy = "run scripts/quickstart, which installs the profile, or: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        return Finding("user namespaces", False, f"AppArmor restricts them and there is no {_APPARMOR_PROFILE}", remedy)
    return Finding("user namespaces", limit > 0, f"at most {limit}", "sysctl user.max_user_namespaces=65536")


def _idmapped_mounts(settings: Settings) -> Finding:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    namespace = _throwaway_user_namespace()
    try:
        os.close(clone_tree(settings.data_dir, MountFlag.READ_ONLY, userns_fd=namespace))
    except OSError as error:
        remedy = "put the data directory on ext4, xfs or btrfs"
        return Finding("id-mapped mounts", False, f"{settings.data_dir}: {error.strerror}", remedy)
    finally:
        os.close(namespace)
    return Finding("id-mapped mounts", True, f"work on {settings.data_dir}")


def _throwaway_user_namespace() -> int:
    """A user namespace with one id range, alive as long as its descriptor."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        libc = ctypes.CDLL(None, use_errno=True)
        os.write(ready[1], b"1" if libc.unshare(0x10000000) == 0 else b"0")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text("0 100000 65536")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (*ready, *go):
            os.close(fd)
        os.waitpid(pid, 0)


def _disk_images(settings: Settings) -> Finding:
    with tempfile.TemporaryDirectory(dir=settings.data_dir) as directory:
        image = Path(directory) / "disk.img"
        make_disk(image, 16, 256)
        with attach_image(image) as device:
            os.close(mount_filesystem("ext4", device, (), MountFlag.NO_DEV))
    return Finding("disk images", True, "loop devices and ext4 work")


def _seccomp(_settings: Settings) -> Finding:
    profile = load_profile(Path(str(resources.files("cloister.runtime.namespace") / "profiles" / "default.json")))
    size = len(compile_bpf(profile)) // 8
    skipped = skipped_names(profile)
    return Finding("seccomp", True, f"{size} instructions" + (f"; unknown here: {', '.join(skipped)}" if skipped else ""))


def _network(_settings: Settings) -> Finding:
    found = network_findings()
    fatal = [finding for finding in found if finding.is_fatal]
    detail = "; ".join(finding.problem for finding in fatal or found) or "nothing of this host is in the way"
    return Finding("network", not fatal, detail, "; ".join(finding.remedy for finding in fatal or found))


def _inotify(_settings: Settings) -> Finding:
    limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    remedy = f"sysctl fs.inotify.max_user_instances={_MIN_INOTIFY}: all sandboxes together have what root has, 32 each at most"
    return Finding("inotify", limit >= _MIN_INOTIFY, f"at most {limit} instances", remedy, needed=False)


def _free_disk(settings: Settings) -> Finding:
    free_mib = shutil.disk_usage(settings.data_dir).free >> 20
    return Finding(
        "free disk", free_mib >= _MIN_FREE_MIB, f"{free_mib} MiB at {settings.data_dir}", f"free {_MIN_FREE_MIB} MiB", needed=False
    )


def _templates(settings: Settings) -> Finding:
    names = [template.name for template in LayerStore(settings.store_dir).templates()]
    return Finding("templates", bool(names), ", ".join(names) or "none built", "cloister template build", needed=False)


def _tier(name: str) -> Finding:
    detail = "not part of this release; a /dev/kvm node would prove nothing" if name == "microvm" else "not part of this release"
    return Finding(f"{name} runtime", False, detail, needed=False)
