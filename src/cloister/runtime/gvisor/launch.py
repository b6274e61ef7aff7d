"""A program: makes the files of one sandbox in a mount namespace of their own, and becomes ``runsc`` in it.

    supervisor ── Plan as JSON, descriptors ──> launch ── fork ──> holder     makes a user namespace, which has the sandbox's host ids
                                                launch                        clones layers and disk, id-mapped to that namespace
                                                launch ── fork ──> builder    enters it; makes the mount namespace, mounts the overlays
                                                launch ── setns(mount) ── exec ──> runsc

So no mount of a sandbox is ever in the host's mount namespace, and none outlives its processes. Only the builder walks a path in a
layer or on the disk, with the power of the sandbox's host ids alone (I2). The program has one thread, because namespaces of users are
entered by whole processes. An error goes to standard error, and the program ends with status 1.

Runs in: a process of its own. Needs: root. Invariants: I1, I2, I6, I8.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cloister.linux.beneath import mounted_directory
from cloister.linux.mounts import MountFlag, clone_tree, map_mount
from cloister.linux.namespaces import MountOption, Namespace, attach_mount, become_ids, bind, enter, leave, make_mounts_private, mount

__all__ = ["NETNS_FD", "Plan", "choose_place", "place_of"]

NETNS_FD = 9
"""The descriptor by which ``runsc`` gets the sandbox's network namespace."""
_PLACES = ("/mnt", "/media", "/opt")

_SEALED = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV
_IDS = 65_536
_UPPER, _WORK = "u", "w"
"""On the disk, as native/slot.c of the namespace runtime has them: a disk may go from one runtime to the other."""
_START = "tmp/.cloister-start"
"""A file that is there when the sandbox starts, and that its first process removes (native/guest.c)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One sandbox to start. ``*_fd`` are descriptors that the program inherits."""

    place: str = ""
    """A directory of the host (:func:`choose_place`); in the sandbox's mount namespace its files are there instead."""
    first_id: int
    layers: list[str]
    """Lowest first."""
    interpreter: list[str]
    agent: str
    guest: str
    """The directory of the sandbox's first program."""
    further: list[str] = field(default_factory=list)
    """Directories of the host that the sandbox sees, read-only."""
    volumes: list[str] = field(default_factory=list)
    """Where volumes go, in this order."""
    volume_fds: list[int] = field(default_factory=list)
    """Their detached mounts, which get id-mapped."""
    disk_fd: int
    """A detached mount, which gets id-mapped."""
    netns_fd: int
    group_fds: list[int]
    """Files of the control group, to join it."""
    files: dict[str, str]
    """Written on a new disk: path to content."""
    has_disk: bool = False
    mem_mib: int
    cpus: list[int]
    argv: list[str] = field(default_factory=list)
    """``runsc``; this and the place are filled in by :mod:`.client`."""

    def to_json(self) -> bytes:
        """For the program."""
        return json.dumps(asdict(self)).encode()


def choose_place(*needed: Path) -> str:
    """A directory that all users of the host can reach, and that is above none of these. Raises: FileNotFoundError."""
    for name in _PLACES:
        if Path(name).is_dir() and not any(Path(name) in (path, *path.parents) for path in needed):
            return name
    raise FileNotFoundError(f"the host has none of the directories {', '.join(_PLACES)} to mount a sandbox's files at")


def place_of(place: str, name: str) -> str:
    """Where the sandbox's ``root``, ``rt``, ``agent``, ``guest``, ``further/<index>`` or ``volumes/<index>`` are, for ``runsc`` alone."""
    return f"{place}/{name}"


def main() -> None:
    """Become ``runsc``. The only argument is the number of a descriptor with the plan."""
    plan_fd = int(sys.argv[1])
    os.umask(0o022)
    with os.fdopen(plan_fd) as file:
        plan = Plan(**json.load(file))
    for fd in plan.group_fds:
        os.write(fd, b"0")
        os.close(fd)
    userns = _user_namespace(plan.first_id)
    mounts = _clone_mounts(plan, userns)
    with _child(lambda: _build(plan, userns, mounts)) as builder:
        space = os.open(f"/proc/{builder}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        enter(space, Namespace.MOUNT)
    for fd in (space, userns, *(fd for fds in mounts.values() for fd in fds)):
        os.close(fd)
    os.dup2(plan.netns_fd, NETNS_FD)
    os.sched_setaffinity(0, plan.cpus)
    Path("/proc/self/oom_score_adj").write_text("500")
    os.chdir("/")
    os.execve(plan.argv[0], plan.argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606 - no shell is wanted


def _user_namespace(first_id: int) -> int:
    """A user namespace whose ids 0..65535 are those of the host from ``first_id`` on."""
    with _child(lambda: leave(Namespace.USER)) as holder:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder}/{name}").write_text(f"0 {first_id} {_IDS}")
        return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _clone_mounts(plan: Plan, userns: int) -> dict[str, list[int]]:
    def clone(paths: list[str], flags: MountFlag) -> list[int]:
        return [clone_tree(path, flags, userns_fd=userns) for path in paths]

    for fd in (plan.disk_fd, *plan.volume_fds):
        map_mount(fd, userns)
    return {
        "layers": clone(plan.layers, MountFlag.READ_ONLY | MountFlag.NO_DEV),
        "interpreter": clone(plan.interpreter, _SEALED),
        "agent": clone([plan.agent], _SEALED),
        "guest": clone([plan.guest], _SEALED),
        "further": clone(plan.further, _SEALED | MountFlag.NO_EXEC),
        "disk": [plan.disk_fd],
        "volumes": plan.volume_fds,
    }


@contextlib.contextmanager
def _child(work: Callable[[], None]) -> Iterator[int]:
    """A child that has done ``work`` and waits; it ends with the block. Raises: OSError, ChildProcessError."""
    done, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done)
            work()
            os.write(theirs, b"1")
            signal.pause()
        except BaseException as error:  # noqa: BLE001 - the process ends here, and says why
            print(f"cannot make the sandbox's files: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        if os.read(done, 1) != b"1":
            raise ChildProcessError("a step failed")
        yield pid
    finally:
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _build(plan: Plan, userns: int, mounts: dict[str, list[int]]) -> None:
    """In the builder: everything below the place."""
    enter(userns, Namespace.USER)
    become_ids(0, 0)
    leave(Namespace.MOUNT)
    make_mounts_private()
    place = Path(plan.place)
    mount("tmpfs", place, "mode=755,size=1m", MountOption.NO_SUID | MountOption.NO_DEV)
    for name in ("root", "empty", "proc", "disk"):
        (place / name).mkdir()
    layers = _attach_all(mounts["layers"], place / "layers")
    _mount_root(plan, place, layers, mounts["disk"][0])
    interpreter = [f"{path}/usr" for path in _attach_all(mounts["interpreter"], place / "interpreter")]
    _mount_sealed(place, "rt", interpreter)
    for name in ("agent", "guest"):
        _mount_sealed(place, name, _attach_all(mounts[name], place / f"{name}-below"))
    (place / "further").mkdir()
    for number, path in enumerate(reversed(_attach_all(mounts["further"], place / "further-below"))):
        _mount_sealed(place, f"further/{number}", [path])
    _attach_all(mounts["volumes"], place / "volumes")
    for path in plan.volumes:
        _make_place(place / "root", path)
    (place / "boot_id").write_text(f"{uuid.uuid4()}\n")
    _pretend_memory(plan.mem_mib, place)


def _mount_sealed(place: Path, name: str, lower: list[str]) -> None:
    """Directories of the host as one, read-only. The empty one on top answers statfs(2), so the host's disk and its use do not show."""
    (place / name).mkdir()
    options = f"userxattr,lowerdir={':'.join((f'{place}/empty', *lower))}"
    mount("overlay", place / name, options, MountOption.READ_ONLY | MountOption.NO_SUID | MountOption.NO_DEV)


def _attach_all(fds: list[int], directory: Path) -> list[str]:
    """Attach mounts at numbered places of a directory; gives the places, the last one first, as overlayfs wants them."""
    directory.mkdir()
    for number, fd in enumerate(fds):
        (directory / str(number)).mkdir()
        attach_mount(fd, directory / str(number))
    return [f"{directory}/{number}" for number in reversed(range(len(fds)))]


def _mount_root(plan: Plan, place: Path, layers: list[str], disk_fd: int) -> None:
    disk = place / "disk"
    attach_mount(disk_fd, disk)
    upper, work = disk / _UPPER, disk / _WORK
    if plan.has_disk:
        os.close(os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    else:
        upper.mkdir(mode=0o755)
        _write_files(upper, plan.files)
    work.mkdir(mode=0o755, exist_ok=True)
    options = f"userxattr,index=off,lowerdir={':'.join(layers)},upperdir={upper},workdir={work}"
    mount("overlay", place / "root", options, MountOption.NO_DEV)
    _make_points(place / "root")


def _write_files(upper: Path, files: dict[str, str]) -> None:
    """On an empty disk, where no link can be."""
    for name, content in files.items():
        path = upper / name.lstrip("/")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(content)


def _make_points(root: Path) -> None:
    """The directories below which ``runsc`` mounts, and the file that keeps /tmp on the disk. No link is followed."""
    for name in ("proc", "dev", "sys", ".cloister", ".cloister/rt", ".cloister/agent", ".cloister/guest"):
        parent = mounted_directory(root, str(Path(name).parent))
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(Path(name).name, 0o755, dir_fd=parent)
        finally:
            os.close(parent)
    with contextlib.suppress(OSError):  # no directory /tmp: then nothing of it is hidden
        directory = mounted_directory(root, "tmp")
        try:
            os.close(os.open(Path(_START).name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory))
        finally:
            os.close(directory)


def _make_place(root: Path, path: str) -> None:
    """The directories on the way to a volume. No link is followed: ``runsc`` would follow it. Raises: OSError."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.strip("/").split("/"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=directory)
        try:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except NotADirectoryError:
            raise NotADirectoryError(f"could not find the place of a volume; a link is not followed: {path}") from None
        finally:
            os.close(directory)
        directory = below
    os.close(directory)


def _pretend_memory(mem_mib: int, place: Path) -> None:
    """Let ``runsc`` read the sandbox's size from /proc/meminfo: without control groups of its own it would tell programs the host's.

    The other mount of /proc, which nothing covers, lets ``runsc`` mount a /proc in a user namespace. Source: mount_too_revealing in
    fs/namespace.c.
    """
    bind(Path("/proc"), place / "proc")
    (place / "meminfo").write_text(f"MemTotal: {mem_mib * 1024} kB\n")
    bind(place / "meminfo", Path("/proc/meminfo"))


if __name__ == "__main__":
    try:
        main()
    except ChildProcessError:  # the child has said which step it was
        sys.exit(1)
