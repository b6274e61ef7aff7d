"""Tries what this host can do: the checks of ``cloister doctor``.

A check removes everything that it makes. It never guesses from a name: a ``/dev/kvm`` node proves nothing, a working system call does.
"""

from __future__ import annotations

import ctypes
import enum
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cloister.config.settings import Settings
from cloister.disks.images import make_disk
from cloister.errors import CloisterError
from cloister.linux.blkio import lacks_rates
from cloister.linux.cgroup import find_tree, is_writable
from cloister.linux.filesystems import existing_part
from cloister.linux.loop import attach_image
from cloister.linux.meminfo import host_memory, memory_mib
from cloister.linux.mounts import MountFlag, clone_tree, mount_filesystem
from cloister.network.host_checks import check_host as network_findings
from cloister.node.instance import INSTANCES
from cloister.node.runtimes import describe_runtimes, runtime_kinds
from cloister.node.shared_limits import low_limits
from cloister.template.freshness import read_freshness
from cloister.template.layers import LayerStore

__all__ = ["Finding", "Level", "check_host"]

_MIN_KERNEL = (5, 19)
_MIN_FREE_MIB = 15_000
_FREEZE_S = 5.0
_APPARMOR_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_APPARMOR_PROFILE = Path("/etc/apparmor.d/cloister-slotmaker")


class Level(enum.Enum):
    """What a finding means.

    ``WARN``: sandboxes run, and something is worse than it could be. ``ABSENT``: not installed, or not part of this release.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    ABSENT = "absent"


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``needed``: no sandbox can run without it. Otherwise a remedy makes a failed check a warning."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True

    @property
    def level(self) -> Level:
        """How bad it is."""
        if self.ok:
            return Level.OK
        if self.needed:
            return Level.FAIL
        return Level.WARN if self.remedy else Level.ABSENT

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, with the level."""
        return {**asdict(self), "level": self.level.value}


def check_host(settings: Settings) -> list[Finding]:
    """Every check, in the order in which an operator would fix them."""
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("root", _root),
        ("kernel", _kernel),
        *_runtime_checks(settings),
        ("control groups", _cgroups),
        ("user namespaces", _user_namespaces),
        ("id-mapped mounts", _idmapped_mounts),
        ("disk images", _disk_images),
        ("network", _network),
        ("shared limits", _shared_limits),
        ("socket memory", _socket_memory),
        ("free disk", _free_disk),
        ("own disk", _own_disk),
        ("volumes", _volumes),
        ("disk rates", _disk_rates),
        ("pause in memory", _freezer),
        ("swap for pauses", _swap),
        ("memory reserve", _memory_reserve),
        ("templates", _templates),
        ("template updates", _template_updates),
    ]
    found = []
    for name, check in checks:
        try:
            found.append(check(settings))
        except (OSError, CloisterError) as error:
            found.append(
                Finding(name, False, str(error), getattr(error, "hint", None) or "run it as root on a Linux host, not in a container")
            )
    return [*found, *_tiers(settings)]


def _root(_settings: Settings) -> Finding:
    return Finding("root", os.geteuid() == 0, f"uid {os.geteuid()}", "run it with sudo")


def _kernel(_settings: Settings) -> Finding:
    release = platform.release()
    parts = release.split("-")[0].split(".")
    number = (int(parts[0]), int(parts[1]))
    return Finding("kernel", number >= _MIN_KERNEL, release, "needs Linux 5.19 or newer: id-mapped layers below overlayfs")


def _runtime_checks(settings: Settings) -> list[tuple[str, Callable[[Settings], Finding]]]:
    """The checks of each runtime, in its order."""
    kinds = runtime_kinds(settings)
    return [
        *((name, partial(_runtime_check, name, check)) for kind in kinds for name, check in kind.checks().items()),
        *((name, partial(_option_check, name, check)) for kind in kinds for name, check in kind.options().items()),
    ]


def _runtime_check(name: str, check: Callable[[], str], _settings: Settings) -> Finding:
    return Finding(name, True, check())


def _option_check(name: str, check: Callable[[], str], _settings: Settings) -> Finding:
    try:
        return Finding(name, True, check(), needed=False)
    except (OSError, CloisterError) as error:
        remedy = getattr(error, "hint", None) or "see the server's log"
        return Finding(name, False, getattr(error, "message", str(error)), remedy, needed=False)


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
    directory = existing_part(settings.data_dir)
    namespace = _throwaway_user_namespace()
    try:
        os.close(clone_tree(directory, MountFlag.READ_ONLY, userns_fd=namespace))
    except OSError as error:
        remedy = "put the data directory on ext4, xfs or btrfs"
        return Finding("id-mapped mounts", False, f"{directory}: {error.strerror}", remedy)
    finally:
        os.close(namespace)
    return Finding("id-mapped mounts", True, f"work on {directory}")


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
    with tempfile.TemporaryDirectory(dir=existing_part(settings.data_dir)) as directory:
        image = Path(directory) / "disk.img"
        make_disk(image, 16, 256)
        with attach_image(image) as device:
            os.close(mount_filesystem("ext4", device, (), MountFlag.NO_DEV))
    return Finding("disk images", True, "loop devices and ext4 work")


def _network(_settings: Settings) -> Finding:
    found = network_findings()
    fatal = [finding for finding in found if finding.is_fatal]
    detail = "; ".join(finding.problem for finding in fatal or found) or "nothing of this host is in the way"
    return Finding("network", not found, detail, "; ".join(finding.remedy for finding in fatal or found), needed=bool(fatal))


def _shared_limits(settings: Settings) -> Finding:
    count = settings.max_sandboxes_per_team
    low = low_limits(count, settings.default_pids, memory_mib("MemTotal"))
    detail = ", ".join(f"{limit.name} is {limit.value}" for limit in low) or f"enough for {count} sandboxes"
    remedy = " ".join(limit.assignment for limit in low)
    return Finding(
        "shared limits",
        not low,
        f"{detail}: {count} sandboxes (max_sandboxes_per_team) could use it up" if low else detail,
        f"sysctl -w {remedy}; or a lower max_sandboxes_per_team",
        needed=False,
    )


def _socket_memory(_settings: Settings) -> Finding:
    is_charged = find_tree(0).version == 2
    detail = "charged to the sandbox's memory" if is_charged else "control groups v1 do not charge buffers of sockets to a sandbox's memory"
    remedy = "boot with control groups v2 (systemd.unified_cgroup_hierarchy=1); till then a sandbox may have an eighth of its memory more"
    return Finding("socket memory", is_charged, detail, remedy, needed=False)


def _free_disk(settings: Settings) -> Finding:
    directory = existing_part(settings.data_dir)
    free_mib = shutil.disk_usage(directory).free >> 20
    promise_mib = settings.default_disk_mib / settings.disk_overcommit
    count = max(0, int((free_mib - settings.disk_reserve_mib) / promise_mib))
    detail = f"{free_mib} MiB at {directory}, enough to promise {promise_mib:.0f} MiB to each of {count} sandboxes"
    return Finding("free disk", free_mib >= _MIN_FREE_MIB and count > 0, detail, f"free {_MIN_FREE_MIB} MiB", needed=False)


def _own_disk(settings: Settings) -> Finding:
    directory = existing_part(settings.data_dir)
    is_own = directory.stat().st_dev != Path("/").stat().st_dev
    detail = f"{directory} is on {'a' if is_own else 'the'} file system {'beside' if is_own else 'of'} the host's root"
    remedy = "give the data directory a file system of its own: other programs that fill it take space that sandboxes were promised"
    return Finding("own disk", is_own, detail, remedy, needed=False)


def _volumes(settings: Settings) -> Finding:
    found = [path.stat() for path in (settings.data_dir / "node" / "volumes").glob("*/volume.img")]
    sizes, used = sum(one.st_size for one in found), sum(one.st_blocks * 512 for one in found)
    free = shutil.disk_usage(existing_part(settings.data_dir)).free
    detail = f"{len(found)} take {used >> 20} of {sizes >> 20} MiB, with {free >> 20} MiB free"
    remedy = "if all became full, the disk would be too small: add space, or delete some (cloister volume list)"
    return Finding("volumes", sizes - used <= free, detail, remedy, needed=False)


def _disk_rates(_settings: Settings) -> Finding:
    version = find_tree(0).version
    lacking = lacks_rates(version)
    remedy = "boot a kernel with CONFIG_BLK_DEV_THROTTLING, and control groups v2; until then disk_mib_per_s and disk_iops have no effect"
    return Finding("disk rates", not lacking, lacking or f"bounded for each sandbox, by control groups v{version}", remedy, needed=False)


def _freezer(_settings: Settings) -> Finding:
    """Freezes a process, and lets it go again."""
    tree = find_tree(INSTANCES)  # the first number that is no server's, whose sweep would remove the group
    name = f"doctor-{os.getpid()}"
    process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    try:
        tree.create(name, None)
        tree.attach(name, process.pid)
        tree.freeze(name, _FREEZE_S)
        tree.thaw(name)
    finally:
        process.kill()
        process.wait()
        tree.remove(name)
        tree.remove_all()
    return Finding("pause in memory", True, f"the freezer of control groups v{tree.version} works")


def _swap(settings: Settings) -> Finding:
    host, after_s = host_memory(), settings.paused_to_disk_s
    told = f"{host.swap_free >> 20} MiB are free; the memory of sandboxes that were paused for {after_s} s moves there"
    remedy = "add swap, best on a fast disk; until then the memory of paused sandboxes stays in the host's memory"
    return Finding("swap for pauses", host.swap_total > 0, told if host.swap_total else "none", remedy, needed=False)


def _memory_reserve(settings: Settings) -> Finding:
    available, reserve = host_memory().available >> 20, settings.memory_reserve_mib
    detail = f"{available} MiB are available; below {reserve} MiB no sandbox is created or resumed"
    return Finding("memory reserve", available > reserve, detail, "free memory, or set a smaller memory_reserve_mib", needed=False)


def _templates(settings: Settings) -> Finding:
    names = [template.name for template in LayerStore(settings.store_dir, create=False).templates()]
    return Finding("templates", bool(names), ", ".join(names) or "none built", "cloister template build", needed=False)


def _template_updates(settings: Settings) -> Finding:
    store = LayerStore(settings.store_dir, create=False)
    found = read_freshness(store.root, store.templates())
    stale = {name: len(one.packages) for name, one in found.items() if one.is_stale}
    if not found:
        return Finding("template updates", False, "the templates were never checked: cloister template refresh", needed=False)
    day = time.strftime("%Y-%m-%d", time.gmtime(min(one.checked_at for one in found.values())))
    detail = ", ".join(f"{name} has {count} packages with updates" for name, count in stale.items()) or "no packages have updates"
    return Finding("template updates", not stale, f"{detail}, as of {day}", "cloister template refresh", needed=False)


def _tiers(settings: Settings) -> list[Finding]:
    """A row for each runtime. A server runs without those that are not its default."""
    rows = []
    for tier in describe_runtimes(settings):
        needed = tier.name == settings.default_runtime
        if tier.is_absent and not needed:
            rows.append(Finding(f"{tier.name} runtime", False, f"{tier.detail}; {tier.remedy}", needed=False))
        else:
            rows.append(Finding(f"{tier.name} runtime", tier.works, tier.detail, tier.remedy, needed=needed))
    detail = "not part of this release; a /dev/kvm node would prove nothing"
    return [*rows, Finding("microvm runtime", False, detail, needed=False)]
