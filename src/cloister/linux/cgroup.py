"""Control groups of sandboxes: one interface to cgroup v1 and v2.

Owns the groups below ``cloister/<instance>`` and touches no other. The version is the one that has the memory controller, because hybrid
hosts also have a v2 tree without it.
Runs in: supervisor. Needs: root. Source: cgroups(7), Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cloister.errors import DeadlineError, IsolationError
from cloister.model.resources import Limits

__all__ = ["CgroupTree", "CgroupUsage", "find_tree", "is_writable"]

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")
_PERIOD_US = 100_000
_SOCKETS_SHIFT = 3
"""v1 limits socket buffers apart from memory: to an eighth of the memory limit."""
_HOST_SHARE = 8
"""The host keeps one in so many process ids; the sandboxes of all servers share the rest."""
_PROC = Path("/proc/sys/kernel")
_REMOVE_POLL_S = 0.01
_REMOVE_WAIT_S = 0.5
_END_WAIT_S = 10.0
_FREEZE_POLL_S, _FREEZE_POLL_MAX_S = 0.0002, 0.005
_KILL_FREEZE_S = 2.0
_RECLAIM_POLL_S = 0.002
_KILL_ROUNDS = 20
_KEPT_GROUPS = 1024


@dataclass(frozen=True, kw_only=True)
class CgroupUsage:
    """Resource use of a group. ``oom_kills`` counts processes killed by the OOM killer, ``pids_refused`` forks that failed at the limit."""

    cpu_used_s: float
    mem_used_bytes: int
    """Without the page cache."""
    mem_cache_bytes: int
    """Page cache, which the kernel reclaims when memory is short. Files of a tmpfs do not count as cache."""
    mem_limit_bytes: int
    oom_kills: int
    pids: int
    pids_refused: int


class CgroupTree(ABC):
    """The groups of one instance."""

    version: int

    def __init__(self, instance: int, root: Path = _ROOT) -> None:
        self._path = f"cloister/{instance}"
        self._root = root

    @abstractmethod
    def directories(self, name: str) -> dict[str, Path]:
        """The directories that make up group ``name``, by controller (v2: one, named ``unified``)."""

    @abstractmethod
    def _apply(self, directories: dict[str, Path], limits: Limits) -> None: ...

    @abstractmethod
    def usage(self, name: str) -> CgroupUsage:
        """Resource use of group ``name``."""

    @abstractmethod
    def cpu_used_s(self, name: str) -> float:
        """Processor time of group ``name``; costs one short read."""

    @abstractmethod
    def swapped_bytes(self, name: str) -> int:
        """Memory of group ``name`` that is in swap. Raises: OSError."""

    @abstractmethod
    def allow_swap(self, name: str, *, allowed: bool) -> None:
        """Whether memory of group ``name`` may be moved to swap from now on. It is not at first. Raises: OSError."""

    @abstractmethod
    def resident_bytes(self, name: str) -> int:
        """Memory of group ``name`` that only swap or an end would free: without the page cache. Raises: OSError."""

    @abstractmethod
    def _reclaiming(self, name: str) -> tuple[Path, str]:
        """The file, and the text to write to it, by which the kernel takes back all memory of group ``name``."""

    def page_out(self, name: str, goes_on: Callable[[], bool], timeout_s: float) -> None:
        """Move the memory of group ``name`` to swap, as far as it may, and give back its page cache; for processes that stand still.

        Ends early when ``goes_on`` answers False: the kernel would go on for as long as running processes fetch their memory back. A
        process of its own asks the kernel, because it can be stopped. Does nothing where the kernel cannot. Raises: OSError.
        """
        file, text = self._reclaiming(name)
        if not file.exists():
            return
        deadline = time.monotonic() + timeout_s
        with subprocess.Popen(["/bin/sh", "-c", 'echo "$1" > "$0"', file, text], stderr=subprocess.DEVNULL) as asking:
            while asking.poll() is None:
                if not goes_on() or time.monotonic() > deadline:
                    asking.kill()
                time.sleep(_RECLAIM_POLL_S)

    @abstractmethod
    def _write_frozen(self, name: str, *, frozen: bool) -> None: ...

    @abstractmethod
    def is_frozen(self, name: str) -> bool:
        """Whether every process of group ``name`` is frozen. Raises: OSError."""

    @abstractmethod
    def is_to_freeze(self, name: str) -> bool:
        """Whether group ``name`` is frozen, or was asked to freeze and not to thaw since. Raises: OSError."""

    def freeze(self, name: str, timeout_s: float) -> None:
        """Freeze every process of group ``name`` until :meth:`thaw`, and processes that join the group meanwhile.

        Raises: DeadlineError (the group is then thawed again), OSError.
        """
        deadline, pause_s = time.monotonic() + timeout_s, _FREEZE_POLL_S
        try:
            while True:
                self._write_frozen(name, frozen=True)  # v1 can miss processes that are being created, so repeat
                if self.is_frozen(name):
                    return
                if time.monotonic() > deadline:
                    raise DeadlineError(f"the processes of {name} did not freeze within {timeout_s:g} s")
                time.sleep(pause_s)  # an idle sandbox stands still after the first
                pause_s = min(2 * pause_s, _FREEZE_POLL_MAX_S)
        except BaseException:
            self.thaw(name)
            raise

    def thaw(self, name: str) -> None:
        """Thaw the processes of group ``name``. Does nothing if they run or the group does not exist. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._write_frozen(name, frozen=False)

    def thaw_all(self, but: Collection[str] = ()) -> None:
        """Thaw every group of this instance ``but`` those: v1 cannot kill a frozen process, and the one that froze it may be dead.

        Raises: OSError.
        """
        for name in self.names().difference(but):
            self.thaw(name)

    def kill_all(self, name: str) -> None:
        """Kill every process of group ``name``, even a fork bomb. Does nothing if the group does not exist. Raises: OSError.

        On v1 this includes a process that is in the group of one controller only, frozen or not.
        """
        with contextlib.suppress(FileNotFoundError):
            try:
                with contextlib.suppress(DeadlineError):
                    self.freeze(name, _KILL_FREEZE_S)
                killed: set[int] = set()
                for _ in range(_KILL_ROUNDS):
                    if not (left := self.pids(name) - killed):
                        break
                    for pid in left:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    killed |= left
            finally:
                self.thaw(name)

    def pids(self, name: str) -> set[int]:
        """Process ids that any controller counts in group ``name``."""
        found: set[int] = set()
        for directory in self.directories(name).values():
            with contextlib.suppress(FileNotFoundError):
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        return found

    def create(self, name: str, limits: Limits | None) -> None:
        """Create group ``name``, or keep an existing one, and set its limits.

        Raises: IsolationError if a limit cannot be set (I7: a sandbox never runs without its limits).
        """
        directories = self.directories(name)
        try:
            for directory in directories.values():
                self._make(directory)
            if limits is not None:
                self._apply(directories, limits)
        except OSError as error:
            raise IsolationError(
                f"cannot make the control group {error.filename}: {error.strerror}",
                step="cgroup",
                errno=error.errno or 0,
                path=str(error.filename),
            ) from error

    def _make(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def enable_controllers(self) -> None:
        """Enable all controllers in every group, also in groups that an older release created. Raises: OSError."""

    def attach(self, name: str, pid: int) -> None:
        """Move a process into group ``name``. Raises: IsolationError."""
        for directory in self.directories(name).values():
            try:
                (directory / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                raise IsolationError(
                    f"cannot put a process into {directory}: {error.strerror}", step="cgroup", errno=error.errno or 0
                ) from error

    def bound_all(self, proc: Path = _PROC) -> None:
        """Limit the processes of all servers' groups together, so that the host always has free process ids.

        The kernel has one set of process ids, and one count of threads, for the whole host. Raises: IsolationError.
        """
        most = min(int((proc / name).read_text()) for name in ("pid_max", "threads-max"))
        own = self.directories("")
        directory = own.get("pids") or own["unified"]
        try:
            self._make(directory)
            (directory.parent / "pids.max").write_text(str(most - most // _HOST_SHARE))
        except OSError as error:
            message = f"cannot limit the processes of all sandboxes: {error.filename}: {error.strerror}"
            raise IsolationError(message, step="cgroup", errno=error.errno or 0, path=str(error.filename)) from error

    def open_joining(self, name: str) -> list[int]:
        """Files of group ``name`` to which a single-threaded process writes "0" to join it; the caller closes them.

        The kernel checks the permission of the process that opened the file, not of the writer, so an unprivileged process can join.
        v1 uses ``tasks``: a thread that moves itself costs no RCU grace period, where ``cgroup.procs`` costs about 8 ms.
        Raises: IsolationError.
        """
        fds: list[int] = []
        try:
            for directory in self.directories(name).values():
                path = f"{directory}/{'tasks' if self.version == 1 else 'cgroup.procs'}"
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # an error closes the files opened so far
        except OSError as error:
            for fd in fds:
                os.close(fd)
            message = f"cannot open the control group {name}: {error.strerror}"
            raise IsolationError(message, step="cgroup", errno=error.errno or 0) from error
        return fds

    def remove(self, name: str, wait_s: float = _REMOVE_WAIT_S) -> None:
        """Remove group ``name``. Does nothing if it does not exist.

        ``wait_s`` bounds the wait for the kernel to release the group's last processes. Raises: OSError.
        """
        for directory in self.directories(name).values():
            _remove_group(directory, wait_s)

    def end(self, name: str) -> None:
        """Kill every process of group ``name`` and remove the group. Raises: OSError."""
        self.kill_all(name)
        self.remove(name, _END_WAIT_S)

    def names(self) -> set[str]:
        """The groups of this instance that exist in any hierarchy."""
        found: set[str] = set()
        for directory in self.directories("").values():
            if directory.is_dir():
                found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
        return found

    def remove_all(self) -> None:
        """Remove every group of this instance, and the common parent if no other instance has groups."""
        for name in self.names():
            self.remove(name)
        for directory in self.directories("").values():
            _remove_group(directory)
            if directory.parent.is_dir() and not any(entry.is_dir() for entry in directory.parent.iterdir()):
                _remove_group(directory.parent)


class _TreeV1(CgroupTree):
    version = 1

    def directories(self, name: str) -> dict[str, Path]:
        return dict(_directories_v1(self._root, self._path, name))

    def enable_controllers(self) -> None:
        """Nothing to do: on v1 each controller has its own hierarchy, in which its files always exist."""

    def _apply(self, directories: dict[str, Path], limits: Limits) -> None:
        memory = directories["memory"]
        mem_bytes = str(limits.mem_mib << 20)
        (memory / "memory.limit_in_bytes").write_text(mem_bytes)
        swap = memory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(mem_bytes)
        sockets = memory / "memory.kmem.tcp.limit_in_bytes"  # despite its name, it limits UDP too
        if sockets.exists():
            sockets.write_text(str(limits.mem_mib << 20 >> _SOCKETS_SHIFT))
        (directories["cpu"] / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (directories["cpu"] / "cpu.cfs_quota_us").write_text(str(int(limits.cpu_count * _PERIOD_US)))
        (directories["pids"] / "pids.max").write_text(str(limits.pids))

    def usage(self, name: str) -> CgroupUsage:
        directories = self.directories(name)
        memory = directories["memory"]
        stat = _fields(memory / "memory.stat")
        cache = max(0, stat["total_cache"] - stat.get("total_shmem", 0))
        return CgroupUsage(
            cpu_used_s=self.cpu_used_s(name),
            mem_used_bytes=max(0, int((memory / "memory.usage_in_bytes").read_text()) - cache),
            mem_cache_bytes=cache,
            mem_limit_bytes=int((memory / "memory.limit_in_bytes").read_text()),
            oom_kills=_fields(memory / "memory.oom_control").get("oom_kill", 0),
            pids=int((directories["pids"] / "pids.current").read_text()),
            pids_refused=_fields(directories["pids"] / "pids.events").get("max", 0),
        )

    def cpu_used_s(self, name: str) -> float:
        fd = os.open(f"{self._root}/cpuacct/{self._path}/{name}/cpuacct.usage", os.O_RDONLY | os.O_CLOEXEC)
        try:  # not by Path, which costs five times as much: this runs every few seconds for each idle sandbox
            return int(os.read(fd, 64)) / 1e9
        finally:
            os.close(fd)

    def swapped_bytes(self, name: str) -> int:
        return _fields(self.directories(name)["memory"] / "memory.stat").get("total_swap", 0)

    def _reclaiming(self, name: str) -> tuple[Path, str]:
        return self.directories(name)["memory"] / "memory.force_empty", "0"

    def allow_swap(self, name: str, *, allowed: bool) -> None:
        """Nothing to do: the limit is one for memory and swap together, so that swap gives a sandbox no more."""

    def resident_bytes(self, name: str) -> int:
        stat = _fields(self.directories(name)["memory"] / "memory.stat")
        return stat["total_rss"] + stat.get("total_shmem", 0)

    def _write_frozen(self, name: str, *, frozen: bool) -> None:
        _write(self.directories(name)["freezer"] / "freezer.state", "FROZEN" if frozen else "THAWED")

    def is_frozen(self, name: str) -> bool:
        return (self.directories(name)["freezer"] / "freezer.state").read_text().strip() == "FROZEN"

    def is_to_freeze(self, name: str) -> bool:
        return (self.directories(name)["freezer"] / "freezer.state").read_text().strip() != "THAWED"


class _TreeV2(CgroupTree):
    version = 2

    def __init__(self, instance: int, root: Path = _ROOT) -> None:
        super().__init__(instance, root)
        controllers = root / "cgroup.controllers"
        self._has_io = controllers.exists() and "io" in controllers.read_text().split()

    def directories(self, name: str) -> dict[str, Path]:
        return {"unified": self._root / self._path / name}

    def _make(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.enable_controllers()

    def enable_controllers(self) -> None:
        for parent in (self._root, self._root / "cloister", self._root / self._path):
            (parent / "cgroup.subtree_control").write_text("+cpu +memory +pids" + (" +io" if self._has_io else ""))

    def _apply(self, directories: dict[str, Path], limits: Limits) -> None:
        group = directories["unified"]
        (group / "memory.max").write_text(str(limits.mem_mib << 20))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        (group / "cpu.max").write_text(f"{int(limits.cpu_count * _PERIOD_US)} {_PERIOD_US}")
        (group / "pids.max").write_text(str(limits.pids))

    def usage(self, name: str) -> CgroupUsage:
        group = self.directories(name)["unified"]
        stat = _fields(group / "memory.stat")
        cache = max(0, stat["file"] - stat.get("shmem", 0))
        return CgroupUsage(
            cpu_used_s=self.cpu_used_s(name),
            mem_used_bytes=max(0, int((group / "memory.current").read_text()) - cache),
            mem_cache_bytes=cache,
            mem_limit_bytes=int((group / "memory.max").read_text()),
            oom_kills=_fields(group / "memory.events").get("oom_kill", 0),
            pids=int((group / "pids.current").read_text()),
            pids_refused=_fields(group / "pids.events").get("max", 0),
        )

    def cpu_used_s(self, name: str) -> float:
        return _fields(self._root / self._path / name / "cpu.stat").get("usage_usec", 0) / 1e6

    def swapped_bytes(self, name: str) -> int:
        file = self.directories(name)["unified"] / "memory.swap.current"
        return int(file.read_text()) if file.exists() else 0

    def _reclaiming(self, name: str) -> tuple[Path, str]:
        group = self.directories(name)["unified"]
        return group / "memory.reclaim", (group / "memory.current").read_text().strip()  # since Linux 5.19

    def allow_swap(self, name: str, *, allowed: bool) -> None:
        file = self.directories(name)["unified"] / "memory.swap.max"
        if file.exists():
            file.write_text("max" if allowed else "0")

    def resident_bytes(self, name: str) -> int:
        stat = _fields(self.directories(name)["unified"] / "memory.stat")
        return stat["anon"] + stat.get("shmem", 0)

    def _write_frozen(self, name: str, *, frozen: bool) -> None:
        _write(self.directories(name)["unified"] / "cgroup.freeze", str(int(frozen)))

    def is_frozen(self, name: str) -> bool:
        return _fields(self.directories(name)["unified"] / "cgroup.events")["frozen"] == 1

    def is_to_freeze(self, name: str) -> bool:
        return (self.directories(name)["unified"] / "cgroup.freeze").read_text().strip() == "1"


@lru_cache(_KEPT_GROUPS)
def _directories_v1(root: Path, path: str, name: str) -> Mapping[str, Path]:
    """Kept, because to join the paths takes longer than most of what is done with them."""
    return {controller: root / controller / path / name for controller in _CONTROLLERS}


def _write(path: Path, text: str) -> None:
    """Write into an existing file; never create one, because the group may be gone."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _fields(path: Path) -> dict[str, int]:
    """A file of lines ``name number``."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in path.read_text().splitlines())}


def _remove_group(directory: Path, wait_s: float = _REMOVE_WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(_REMOVE_POLL_S)  # the kernel removes a killed process from the group shortly after it is reaped


def find_tree(instance: int, root: Path = _ROOT) -> CgroupTree:
    """The tree of this host. Raises: IsolationError if neither version has the memory, cpu and pids controllers."""
    if all((root / controller / "cgroup.procs").exists() for controller in _CONTROLLERS):
        return _TreeV1(instance, root)
    controllers = root / "cgroup.controllers"
    if controllers.exists() and {"memory", "cpu", "pids"} <= set(controllers.read_text().split()):
        return _TreeV2(instance, root)
    raise IsolationError(
        f"no usable control groups below {root}",
        step="cgroup",
        hint="mount cgroup v2 (or v1 with memory, cpu, cpuacct, pids, freezer) there",
    )


def is_writable(root: Path = _ROOT) -> bool:
    """Whether this process may create groups; false in many containers."""
    return os.access(root, os.W_OK)
