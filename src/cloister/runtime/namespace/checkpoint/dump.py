"""Dumps a frozen sandbox with its memory into a directory; the sandbox stays as it is, frozen.

Invariants: CRIU gets the power of ``_CAPABILITIES`` over the host, and no file of it but the new image, which is a mount of its own;
an image has its name when it is whole and on the disk. Whatever happens to CRIU, the sandbox is frozen afterwards, and it is whole or
found broken.
Runs in: supervisor, in worker threads. Needs: root. Invariants: I1, I2, I7, I8.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloister.errors import ConflictError, RuntimeFailedError, UnavailableError
from cloister.linux.cgroup import CgroupTree
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.linux.process import wait_pidfd
from cloister.runtime.base import BrokenSandboxError
from cloister.runtime.namespace.checkpoint.criu import Criu, Entry
from cloister.runtime.namespace.checkpoint.damage import end_strays, find_damage, living, wait_untraced
from cloister.runtime.namespace.checkpoint.images import adopt_tree, highest_pid
from cloister.runtime.namespace.checkpoint.manifest import MANIFEST, Manifest, cpu_features, digest_of
from cloister.runtime.namespace.checkpoint.mapped import INIT, MappedFile, find_mapped
from cloister.runtime.namespace.checkpoint.refusals import check_size, check_state
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.zygotes import sealed_file

__all__ = ["DUMP_CAPABILITIES", "HINT", "ROOM", "Dumper", "Subject"]

HINT = "pause it with memory=false"
ROOM = 256 << 20
"""Bytes that an image may have beyond the limit of memory, for memory of zygotes; and that stay free on its file system."""

DUMP_CAPABILITIES = {
    "DAC_OVERRIDE": 1,
    "SETGID": 6,
    "SYS_PTRACE": 19,
    "CHECKPOINT_RESTORE": 40,
}
"""Capabilities that CRIU keeps, and their numbers."""
_NAMESPACES = ("net", "ipc", "uts", "cgroup", "time", "mnt")
"""Not user: the capabilities count outside of it only."""
_WATCHED = ("/home", "/root", "/tmp")  # noqa: S108 - directories of the sandbox
"""Trees of the sandbox in which CRIU looks for watched directories: the kernel tells it no names."""
_TIMEOUT_S = 120.0
_FREEZE_TIMEOUT_S = 10.0
_LET_GO_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A frozen sandbox."""

    sandbox_id: str
    hostname: str
    boot_id: str
    mem_mib: int
    pid: int
    """Its pid 1, on the host."""
    restored: int
    """The number, inside, of the process where its tree begins; 1, unless it was restored itself."""
    trees: tuple[Path, ...]
    pidfd: int
    """Of its pid 1."""

    @property
    def most_bytes(self) -> int:
        """The most bytes that its image may have."""
        return (self.mem_mib << 20) + ROOM


@dataclass(frozen=True, kw_only=True)
class Dumper:
    """Makes images."""

    criu: Criu
    groups: CgroupTree
    own_filter: bytes
    sandbox_filter: bytes
    capabilities: int = sum(1 << number for number in DUMP_CAPABILITIES.values())

    def dump(self, subject: Subject, directory: Path, *, is_durable: bool = True) -> Manifest:
        """Write the image of a frozen sandbox into ``directory``, which must not exist; nothing is left when it raises.

        ``is_durable``: it is on the disk when it has its name. Else the caller sees to that.

        Raises: ConflictError, when the sandbox has state that cannot be saved; UnavailableError (no room); BrokenSandboxError, when it
        must not go on; RuntimeFailedError, DeadlineError, OSError.
        """
        if not self.groups.is_frozen(subject.sandbox_id):
            raise ConflictError("only a frozen sandbox can be dumped")
        unfinished = directory.with_name(f"{directory.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        try:
            manifest = self._fill(subject, unfinished)
            _write_whole(unfinished / MANIFEST, manifest.to_json().encode())
            if is_durable:
                _sync(unfinished)
            unfinished.rename(directory)
            if is_durable:
                _sync_directory(directory.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return manifest

    def _fill(self, subject: Subject, directory: Path) -> Manifest:
        pids = sorted(self.groups.pids(subject.sandbox_id))
        root = subject.pid if subject.restored == 1 else _pid_inside(pids, subject.restored)
        tree = [pid for pid in pids if pid != subject.pid or subject.restored == 1]
        check_state(tree, root)
        check_size(tree, subject.most_bytes)
        mapped = find_mapped(tree, subject.pid, root, subject.trees)
        clock_s = _clock_of(subject.pid)
        self._run_watched(subject, mapped, directory, tree)
        _own(directory)
        _copy_program(root, directory / INIT)
        number = adopt_tree(directory, subject.restored)
        return Manifest(
            criu=self.criu.version,
            features=cpu_features(),
            trees=tuple(map(str, subject.trees)),
            mapped=tuple(mapped),
            sandbox_id=subject.sandbox_id,
            hostname=subject.hostname,
            boot_id=subject.boot_id,
            mem_mib=subject.mem_mib,
            root=number,
            last_pid=highest_pid(directory),
            clock_s=clock_s,
            sizes={path.name: path.lstat().st_size for path in directory.iterdir()},
            digest=digest_of(directory),
        )

    def _run_watched(self, subject: Subject, mapped: list[MappedFile], directory: Path, tree: list[int]) -> None:
        """Raises: as :meth:`dump`."""
        before = living(tree)
        was_killed, errors = True, ""
        try:
            errors = self._run(subject, mapped, directory)
            was_killed = False
        finally:  # CRIU thaws the sandbox to stop its processes one by one
            own = partial(self.groups.pids, subject.sandbox_id)
            end_strays((subject.pid, subject.pidfd), own, _LET_GO_TIMEOUT_S)
            wait_untraced(tree, own, _LET_GO_TIMEOUT_S)
            self.groups.freeze(subject.sandbox_id, _FREEZE_TIMEOUT_S)
            if (was_killed or errors) and (damage := find_damage(before, was_killed=was_killed)):
                told = f" (CRIU: {_last_lines(errors)})" if errors else ""
                raise BrokenSandboxError(f"the dumper did not end in order, and has broken the sandbox: {damage}{told}")
        if errors:
            raise RuntimeFailedError(f"CRIU could not dump the sandbox: {_last_lines(errors)}")

    def _run(self, subject: Subject, mapped: list[MappedFile], directory: Path) -> str:
        """The errors of CRIU. Raises: as :meth:`Criu.run`."""
        with ExitStack() as stack:
            proc = f"/proc/{subject.pid}"
            spaces = {name: close_with(stack, os.open(f"{proc}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)) for name in ("pid", *_NAMESPACES)}
            image = close_with(stack, clone_tree(directory, MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC))
            group = self.groups.directories(subject.sandbox_id)
            freezer = close_with(stack, clone_tree(group.get("freezer") or group["unified"], MountFlag.NO_SUID | MountFlag.NO_EXEC))
            entry = Entry(
                pid_namespace=spaces["pid"],
                namespaces=tuple(spaces[name] for name in _NAMESPACES),
                image=image,
                user=int(Path(f"{proc}/uid_map").read_text().split()[1]),
                capabilities=self.capabilities,
                filter=close_with(stack, sealed_file("dump filter", self.own_filter)),
                sandbox_filter=close_with(stack, sealed_file("sandbox filter", self.sandbox_filter)),
            )
            words = ["dump", "-t", str(subject.restored), "--leave-running", "--freeze-cgroup", f"/proc/self/fd/{freezer}"]
            words += ["--force-irmap", "--skip-in-flight"]  # the latter: connections that no program has accepted yet
            words += [word for place in _WATCHED for word in ("--irmap-scan-path", place)]
            words += common_words(image)
            words += [word for file in mapped for word in ("--external", file.name)]
            if wait_pidfd(subject.pidfd, 0):  # then the number may have been another process's when its namespaces were opened
                raise RuntimeFailedError("the sandbox has ended")
            return self.criu.run(words, entry, (freezer,), _TIMEOUT_S, partial(_check_room, directory, subject.most_bytes))


def common_words(image: int) -> list[str]:
    """Options of every dump and restore: nothing of the sandbox's own file system configures CRIU, and its plug-ins are looked for in
    the image, which has none.
    """
    place = f"/proc/self/fd/{image}"
    words = ["--unprivileged", "--no-default-config", "--images-dir", place, "--libdir", place, "--network-lock", "skip"]
    return [*words, "--manage-cgroups=ignore", "--tcp-close", "--file-locks", "-v2"]


def _check_room(directory: Path, most: int) -> None:
    """Bound an image that is being written, should :func:`check_size` have missed something. Raises: ConflictError, UnavailableError."""
    written = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                written += entry.stat(follow_symlinks=False).st_blocks * 512
    if written > most:
        raise ConflictError(f"the sandbox's memory takes more than {most >> 20} MiB on disk", hint=HINT)
    if shutil.disk_usage(directory).free < ROOM:
        raise UnavailableError("there is no room on the server's disk for the sandbox's memory", hint=HINT)


def _pid_inside(pids: list[int], number: int) -> int:
    """The host's number of a process that the sandbox knows as ``number``. Raises: ConflictError."""
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found = re.search(r"(?m)^NSpid:.*\t(\d+)$", status)  # at the beginning of a line: a process chooses its own name
        if found is not None and int(found[1]) == number:
            return pid
    raise ConflictError("the process that the sandbox began with has ended")


def _clock_of(pid: int) -> int:
    """The sandbox's monotonic clock, rounded up: it never goes backwards."""
    offsets = dict(line.split(None, 1) for line in Path(f"/proc/{pid}/timens_offsets").read_text().splitlines())
    return int(time.clock_gettime(time.CLOCK_MONOTONIC)) + int(offsets["monotonic"].split()[0]) + 1


def _own(directory: Path) -> None:
    """CRIU's files belong to the sandbox's root, as the host knows it: they become root's, and plain files is all they may be."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise RuntimeFailedError(f"CRIU wrote {path.name!r}, which is no plain file")
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)


def _copy_program(pid: int, target: Path) -> None:
    with Path(f"/proc/{pid}/exe").open("rb") as program, target.open("xb") as file:
        shutil.copyfileobj(program, file)
    target.chmod(0o755)


def _write_whole(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def _sync(directory: Path) -> None:
    """Wait until every file of an image is on the disk; not the whole file system, which has the disks of all sandboxes."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _last_lines(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines()[-3:])
