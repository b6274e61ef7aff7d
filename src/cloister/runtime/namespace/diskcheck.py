"""Checks and repairs the disk of a sandbox that was not closed whole, in a sandbox of its own (I1).

A hostile program may have made the file system, and a crash may have torn it, so e2fsck must not read it with the host's power. It runs
like any sandbox: all namespaces, seccomp, its own ids, limits, no network. Its root has only e2fsck and its libraries, copied from the
host. It can write to the image, which it cannot enlarge, and to a small disk of its own that is thrown away.
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I1, I2, I6.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cloister.disks import images
from cloister.errors import DeadlineError, IsolationError, RuntimeFailedError
from cloister.ids import new_sandbox_id
from cloister.linux.ext4 import is_clean
from cloister.linux.files import make_directory
from cloister.model.network import EgressPolicy
from cloister.model.resources import Limits
from cloister.runtime.namespace.plan import Payload
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.slots import SlotStarter
from cloister.runtime.namespace.step import run_program
from cloister.runtime.spec import BUILD_SHARING, Mount, SandboxSpec

__all__ = ["check_disk"]

_LIMITS = Limits(cpu_count=1.0, mem_mib=1024, disk_mib=16, inodes=256, pids=16, open_files=256)
_TIMEOUT_S = 300.0
_WORDS = 400
_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"
_PROGRAMS = ("e2fsck", "prlimit")
_PLACE = "/.cloister/disk"
_NO_ID = 1 << 30
"""A host id that no sandbox maps: the owner of a directory in which the checker cannot make or remove a file."""


def check_disk(starter: SlotStarter, image: Path) -> str:
    """Check the file system in ``image``, and repair it; gives the end of e2fsck's report. It is attached nowhere.

    Raises: RuntimeFailedError (it cannot be repaired, or the check took too long), IsolationError, NoCapacityError, OSError.
    """
    work = image.parent / "check"
    shutil.rmtree(work, ignore_errors=True)
    try:
        root, place, scratch = work / "root", work / "place", work / "scratch.img"
        _copy_programs(root)
        _show_image(image, place)
        report = bytearray()
        status = _run(starter, root, place, scratch, report)
    except DeadlineError as error:
        raise RuntimeFailedError(f"the check of the paused sandbox's disk took longer than {_TIMEOUT_S:g} s") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    words = re.sub(r"[^ -~]+", " ", report.decode(errors="replace"))[-_WORDS:].strip()
    if status not in (0, 1) or not is_clean(image):
        raise RuntimeFailedError(f"the disk of the paused sandbox is damaged and cannot be repaired (e2fsck: status {status}; {words})")
    return words


def _run(starter: SlotStarter, root: Path, place: Path, scratch: Path, report: bytearray) -> int:
    images.make_disk(scratch, _LIMITS.disk_mib, _LIMITS.inodes)
    size = (place / "disk.img").stat().st_size
    limit = f"--fsize={size}:{size}"
    sandbox = SandboxSpec(
        sandbox_id=f"check-{new_sandbox_id()}",
        sharing=BUILD_SHARING,
        directory=scratch.parent,
        layers=(root,),
        agent=None,
        limits=_LIMITS,
        egress=EgressPolicy(public=False),
        mounts=(Mount(source=place, target=_PLACE, is_writable=True),),
    )
    payload = Payload(argv=("/bin/prlimit", limit, "/bin/e2fsck", "-f", "-y", f"{_PLACE}/disk.img"), envs={})
    disk = images.mount_disk(scratch)
    try:

        def upper(userns_fd: int, mounts: ExitStack) -> int:
            return close_with(mounts, images.map_disk(disk, userns_fd))

        def note(data: bytes) -> None:
            report.extend(data)
            del report[: -_WORDS * 4]

        return run_program(partial(starter.start, sandbox, payload, upper=upper), [], note, _TIMEOUT_S)
    finally:
        os.close(disk)


def _show_image(image: Path, place: Path) -> None:
    """A second name of the image, in a directory where the checker finds that and cannot change anything else."""
    place.mkdir(mode=0o711)
    place.chmod(0o711)
    os.chown(place, _NO_ID, _NO_ID)
    (place / "disk.img").hardlink_to(image)


def _copy_programs(root: Path) -> None:
    """A root with the programs, their libraries and their loader. Raises: IsolationError, OSError."""
    make_directory(root / "bin", 0o755)
    for name in _PROGRAMS:
        found = shutil.which(name, path=_SEARCH)
        if found is None:
            raise IsolationError(f"there is no {name}", step="disk check", hint="install e2fsprogs and util-linux")
        shutil.copy(found, root / "bin" / name)
        for library in _libraries(found):
            target = root / library.lstrip("/")
            if not target.exists():
                make_directory(target.parent, 0o755)
                shutil.copy(library, target)


def _libraries(program: str) -> list[str]:
    """Paths of the libraries and of the loader, as ldd(1) lists them."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, env={"PATH": _SEARCH, "LC_ALL": "C"})
    if done.returncode:
        raise IsolationError(f"ldd {program}: {done.stderr.strip()}", step="disk check")
    return re.findall(r"(/\S+) \(0x", done.stdout)
