"""Instance numbers: they keep the servers of one host apart.

Each server (data directory) holds a number 0..6, which fixes its host ids, addresses, interface and control group names. The claim is a
file in ``/run/cloister/instances`` that names the data directory, locked while a supervisor lives. A crash leaves the file, so that the
restarted server finds its own number and its sandboxes again; a clean stop removes it.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import AlreadyExistsError, NoCapacityError
from cloister.linux.files import make_directory

__all__ = ["API_UID", "INSTANCES", "RUN_ROOT", "Instance", "claim_instance", "instance_of"]

INSTANCES = 7
RUN_ROOT = Path("/run/cloister")
_UID_START = 0x1000_0000
_UIDS_PER_INSTANCE = 1 << 29
API_UID = _UID_START + INSTANCES * _UIDS_PER_INSTANCE + 1
"""The unprivileged identity of an api process of a cluster, on a machine where it has no supervisor."""


@dataclass(frozen=True)
class Instance:
    """A held instance number; ``lock_fd`` keeps it."""

    number: int
    run_dir: Path
    lock_fd: int
    claim: Path

    @property
    def uid_base(self) -> int:
        """First host id of the instance; the first 65,536 are for its own host processes."""
        return _UID_START + self.number * _UIDS_PER_INSTANCE

    @property
    def api_uid(self) -> int:
        """The unprivileged identity of the api process."""
        return self.uid_base + 1

    @property
    def egress_uid(self) -> int:
        """The unprivileged identity of the egress process."""
        return self.uid_base + 2

    def release(self) -> None:
        """Forget the number; only when nothing of the instance is left."""
        self.claim.unlink(missing_ok=True)
        os.close(self.lock_fd)


def claim_instance(data_dir: Path, run_root: Path = RUN_ROOT) -> Instance:
    """The instance of ``data_dir``: its old number if it has one, else a free one.

    Raises: AlreadyExistsError when another supervisor serves this data directory, NoCapacityError when all numbers are taken.
    """
    directory = run_root / "instances"
    make_directory(directory, 0o755)
    owner = str(data_dir.resolve())
    numbers = sorted(range(INSTANCES), key=lambda number: _owner(directory / str(number)) != owner)
    for number in numbers:
        claim = directory / str(number)
        was = _owner(claim)
        if was not in ("", owner) and Path(was).exists() and (run_root / str(number)).exists():
            continue  # another server's, perhaps one that crashed and still has live sandboxes
        lock_fd = os.open(claim, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock_fd)
            if was == owner:
                raise AlreadyExistsError(f"a supervisor already serves {data_dir}", hint="stop it, or use another --data-dir") from error
            continue
        if was != owner:  # a crash between the two calls must not have a server lose its number, and with it its sandboxes
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, owner.encode(), 0)
        run_dir = run_root / str(number)
        make_directory(run_dir, 0o755)
        return Instance(number, run_dir, lock_fd, claim)
    raise NoCapacityError(f"{INSTANCES} servers run on this host already")


def instance_of(data_dir: Path, run_root: Path = RUN_ROOT) -> int | None:
    """The number of the server of ``data_dir``, which may be stopped; None if it has none. Claims nothing."""
    owner = str(data_dir.resolve())
    return next((number for number in range(INSTANCES) if _owner(run_root / "instances" / str(number)) == owner), None)


def is_served(data_dir: Path, run_root: Path = RUN_ROOT) -> bool:
    """Whether a supervisor serves the data directory now: it holds the lock of its claim."""
    number = instance_of(data_dir, run_root)
    if number is None:
        return False
    claim = os.open(run_root / "instances" / str(number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(claim)
    return False


def _owner(claim: Path) -> str:
    try:
        return claim.read_text()
    except FileNotFoundError:
        return ""
