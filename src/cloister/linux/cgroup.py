"""Control groups of sandboxes, v1 and v2 behind one interface.

Owns only what lies below ``cloister/<instance>``; never touches another group. Which version is used is found from where the memory
controller is (hybrid hosts have a v2 tree without it). Needs: root. Source: cgroups(7), Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import DeadlineError, IsolationError
from cloister.model.resources import Limits

__all__ = ["CgroupTree", "CgroupUsage", "find_tree", "is_writable"]

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")
_PERIOD_US = 100_000
_REMOVE_POLL_S = 0.01
_REMOVE_WAIT_S = 0.5
_END_WAIT_S = 10.0
_FREEZE_POLL_S = 0.002
_KILL_FREEZE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class CgroupUsage:
    """What a group has used. ``oom_kills`` counts processes killed for want of memory, ``pids_refused`` forks beyond the limit."""

    cpu_used_s: float
    mem_used_bytes: int
    """Without the cache."""
    mem_cache_bytes: int
    """Page cache of files, which the kernel takes back when memory is short; files in memory (tmpfs) are no cache."""
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
        """What group ``name`` has used."""

    @abstractmethod
    def cpu_used_s(self, name: str) -> float:
        """Processor time of group ``name`` alone: one short read."""

    @abstractmethod
    def _write_frozen(self, name: str, *, frozen: bool) -> None: ...

    @abstractmethod
    def is_frozen(self, name: str) -> bool:
        """Whether every process of group ``name`` stands still. Raises: OSError."""

    def freeze(self, name: str, timeout_s: float) -> None:
        """Stop every process of group ``name`` where it is, until :meth:`thaw`; those made meanwhile too.

        Raises: DeadlineError (it is thawed again then), OSError.
        """
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._write_frozen(name, frozen=True)  # v1 may need to be told again of processes that were just being made
                if self.is_frozen(name):
                    return
                if time.monotonic() > deadline:
                    raise DeadlineError(f"the processes of {name} did not stand still within {timeout_s:g} s")
                time.sleep(_FREEZE_POLL_S)
        except BaseException:
            self.thaw(name)
            raise

    def thaw(self, name: str) -> None:
        """Let the processes of group ``name`` go on; nothing happens when they do, or when there is no such group. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._write_frozen(name, frozen=False)

    def thaw_all(self) -> None:
        """Let every group of this instance go on: v1 kills no process that is frozen, and who froze it may be dead. Raises: OSError."""
        for name in self.names():
            self.thaw(name)

    def kill_all(self, name: str) -> None:
        """End every process of group ``name``, also if they fork for ever; nothing happens when there is no such group. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError):
            try:
                with contextlib.suppress(DeadlineError):
                    self.freeze(name, _KILL_FREEZE_S)
                for pid in next(iter(self.directories(name).values())).joinpath("cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            finally:
                self.thaw(name)

    def create(self, name: str, limits: Limits | None) -> None:
        """Make group ``name`` (kept if it is there) and set its limits.

        Raises: IsolationError when a limit cannot be set (I7).
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

    def attach(self, name: str, pid: int) -> None:
        """Move a process into group ``name``. Raises: IsolationError."""
        for directory in self.directories(name).values():
            try:
                (directory / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                raise IsolationError(
                    f"cannot put a process into {directory}: {error.strerror}", step="cgroup", errno=error.errno or 0
                ) from error

    def open_joining(self, name: str) -> list[int]:
        """Files of group ``name`` to which a process with one thread writes "0" to join it; the caller closes them.

        v1: ``tasks``, because a thread that moves itself does not make the kernel wait (``cgroup.procs`` costs a grace period, about 8 ms).
        Who opened the file counts, not who writes. Raises: IsolationError.
        """
        fds: list[int] = []
        try:
            for directory in self.directories(name).values():
                path = directory / ("tasks" if self.version == 1 else "cgroup.procs")
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # what is open so far is closed below
        except OSError as error:
            for fd in fds:
                os.close(fd)
            message = f"cannot open the control group {name}: {error.strerror}"
            raise IsolationError(message, step="cgroup", errno=error.errno or 0) from error
        return fds

    def remove(self, name: str, wait_s: float = _REMOVE_WAIT_S) -> None:
        """Remove group ``name``; waits so long for the kernel to let go of its last processes. Nothing happens when it is not there.

        Raises: OSError.
        """
        for directory in self.directories(name).values():
            _remove_group(directory, wait_s)

    def end(self, name: str) -> None:
        """End every process of group ``name``, and remove it. Raises: OSError."""
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
        """Remove every group of this instance, and the common parent when no other instance is left."""
        for name in self.names():
            self.remove(name)
        for directory in self.directories("").values():
            _remove_group(directory)
            if directory.parent.is_dir() and not any(entry.is_dir() for entry in directory.parent.iterdir()):
                _remove_group(directory.parent)


class _TreeV1(CgroupTree):
    version = 1

    def directories(self, name: str) -> dict[str, Path]:
        return {controller: self._root / controller / self._path / name for controller in _CONTROLLERS}

    def _apply(self, directories: dict[str, Path], limits: Limits) -> None:
        memory = directories["memory"]
        mem_bytes = str(limits.mem_mib << 20)
        (memory / "memory.limit_in_bytes").write_text(mem_bytes)
        swap = memory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(mem_bytes)
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
        try:  # by hand: every idle sandbox is asked every few seconds, and this is a fifth of what a Path costs
            return int(os.read(fd, 64)) / 1e9
        finally:
            os.close(fd)

    def _write_frozen(self, name: str, *, frozen: bool) -> None:
        _write(self.directories(name)["freezer"] / "freezer.state", "FROZEN" if frozen else "THAWED")

    def is_frozen(self, name: str) -> bool:
        return (self.directories(name)["freezer"] / "freezer.state").read_text().strip() == "FROZEN"


class _TreeV2(CgroupTree):
    version = 2

    def directories(self, name: str) -> dict[str, Path]:
        return {"unified": self._root / self._path / name}

    def _make(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for parent in (self._root, self._root / "cloister", self._root / self._path):
            (parent / "cgroup.subtree_control").write_text("+cpu +memory +pids")

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

    def _write_frozen(self, name: str, *, frozen: bool) -> None:
        _write(self.directories(name)["unified"] / "cgroup.freeze", str(int(frozen)))

    def is_frozen(self, name: str) -> bool:
        return _fields(self.directories(name)["unified"] / "cgroup.events")["frozen"] == 1


def _write(path: Path, text: str) -> None:
    """Into a file that is there: a group that is gone must not get one."""
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
            time.sleep(_REMOVE_POLL_S)  # the kernel frees a killed process's place a moment after it is reaped


def find_tree(instance: int, root: Path = _ROOT) -> CgroupTree:
    """The tree of this host. Raises: IsolationError when neither version offers memory, cpu and pids."""
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
    """Whether groups can be made at all (false in many containers)."""
    return os.access(root, os.W_OK)
