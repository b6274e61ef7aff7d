"""The disks of all sandboxes together are larger than the server's. A sandbox never takes space from acknowledged writes of another (I6, I10).

On a small file system of the test's own, so that it is really full.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2b import RateLimitException, SandboxException
from e2b.exceptions import ServiceBusyException
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.inside import python, reason_of_end
from framework.server import Server, running_server
from framework.small_disk import small_disk
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

_SIZE_MIB, _RESERVE_MIB, _OVERCOMMIT = 3072, 512, 16
_PROMISE_MIB = 5120 // _OVERCOMMIT

_FILL = """
import os, subprocess
subprocess.Popen(["sh", "-c", "while :; do dd if=/dev/zero of=/home/user/big.$$ bs=1M conv=notrunc oflag=append; done"],
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
_KEEP = """
import hashlib, json, os
def keep(number, mib):
    data = os.urandom(mib << 20)
    path = f"/home/user/kept.{number}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        if number % 2:
            os.fsync(fd)
    finally:
        os.close(fd)
    sums[path] = hashlib.sha256(data).hexdigest()
sums = {}
"""
_CHECK = """
os.sync()
wrong = []
for path, digest in sums.items():
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    found = hashlib.sha256()
    while data := os.read(fd, 1 << 20):
        found.update(data)
    os.close(fd)
    if found.hexdigest() != digest:
        wrong.append(path)
print(json.dumps([len(sums), wrong]))
"""


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """The data directory's own small file system."""
    with small_disk(_SIZE_MIB) as place:
        yield place


@pytest.fixture(scope="module")
def full_server(disk: Path, stock_templates: None) -> Iterator[Server]:
    """A server on it that promises disk many times over."""
    options = ["--pool-size", "0", "--disk-reserve-mib", str(_RESERVE_MIB), "--disk-overcommit", str(_OVERCOMMIT)]
    with running_server(*options, data_dir=disk) as running:
        yield running


def free_mib(disk: Path) -> int:
    """Free MiB of the file system for unprivileged users."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize >> 20


@contextmanager
def lowest_free(disk: Path) -> Iterator[list[int]]:
    """The least free space during the block, in MiB, looked at all the time."""
    lowest, stop = [free_mib(disk)], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            lowest[0] = min(lowest[0], free_mib(disk))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lowest
    finally:
        stop.set()
        thread.join()


def metric(server: Server, name: str) -> float:
    """The value of a metric."""
    key = server.data_dir / "metrics-key"
    if not key.exists():
        key.write_text(server.cli("key", "create", "--metrics", "test").stdout.strip())
    answer = call(server.url, "GET", "/metrics", headers={"Authorization": f"Bearer {key.read_text()}"}).body.decode()
    return next(float(line.split()[-1]) for line in answer.splitlines() if line.startswith(name))


def test_sandbox_cannot_spoil_anothers_files_by_filling_the_disk(full_server: Server, disk: Path) -> None:
    """It is stopped with the reason, and its neighbour keeps its data. The server can create keys at any time, and has space again."""
    neighbour, attacker = Sandbox.create(**full_server.sdk), Sandbox.create(**full_server.sdk)
    python(neighbour, _KEEP)
    with lowest_free(disk) as lowest:
        python(attacker, _FILL)
        deadline = time.monotonic() + 40
        number = 0
        while attacker.is_running():
            assert time.monotonic() < deadline, "the sandbox that fills the disk was not stopped"
            if number < _PROMISE_MIB // 8:
                python(neighbour, f"keep({number}, 4)")
                number += 1
            full_server.cli("key", "create", f"during-{time.monotonic_ns()}")
    assert lowest[0] > _RESERVE_MIB // 4, "the disk was full"
    assert number > 1
    assert python(neighbour, _CHECK) == f"[{number}, []]"
    with pytest.raises(SandboxException):
        attacker.commands.run("true")
    assert reason_of_end(full_server, attacker).endswith("ran out of disk space")
    assert "sandbox.stopped_for_space" in full_server.log.read_text()
    assert metric(full_server, "cloister_sandboxes_stopped_for_space_total") >= 1
    with Sandbox.create(**full_server.sdk) as again:
        assert python(again, "print(2 + 3)") == "5"
    neighbour.kill()


@contextmanager
def host_takes(disk: Path, leave_mib: int) -> Iterator[None]:
    """A file of the host's that leaves so much free, once the disks of earlier sandboxes are given back."""
    path = disk / "taken"
    eventually(lambda: free_mib(disk) > _SIZE_MIB - 250)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (free_mib(disk) - leave_mib) << 20)
    try:
        yield
    finally:
        path.unlink()


_UNTIL_FULL = """
number, error = len(sums), 0
try:
    while number < 300:
        keep(number, 1)
        number += 1
except OSError as fault:
    error = fault.errno
    os.unlink(f"/home/user/kept.{number}")
print(number, error)
"""


def test_sandbox_cannot_be_told_of_a_write_that_has_no_space(full_server: Server, disk: Path) -> None:
    """When the host's own files take the space, a write fails with ENOSPC; what was acknowledged is there, and later it goes on."""
    with Sandbox.create(**full_server.sdk) as sandbox:
        python(sandbox, _KEEP)
        with lowest_free(disk) as lowest, host_takes(disk, _RESERVE_MIB // 2 + 64):
            eventually(lambda: metric(full_server, 'cloister_disk_bytes{kind="spare"}') < 0)
            number, error = map(int, python(sandbox, _UNTIL_FULL).split())
            assert error == errno.ENOSPC
            assert 16 < number < 80, "of 64 MiB that no other sandbox could take"
            assert python(sandbox, _CHECK) == f"[{number}, []]"
            with pytest.raises(ServiceBusyException, match="disk space"):
                Sandbox.create(**full_server.sdk)
            full_server.cli("key", "create", "while-full")
        assert lowest[0] > _RESERVE_MIB // 4
        eventually(lambda: metric(full_server, 'cloister_disk_bytes{kind="spare"}') > 0)
        assert python(sandbox, _UNTIL_FULL) == "300 0"
        assert python(sandbox, _CHECK) == "[300, []]"


def test_team_cannot_be_promised_disk_that_is_not_there(full_server: Server, disk: Path) -> None:
    """A sandbox is refused when its promised disk is not free beside what others were promised, though there is more than the reserve."""
    with Sandbox.create(**full_server.sdk), host_takes(disk, _RESERVE_MIB + _PROMISE_MIB + 64):
        eventually(lambda: metric(full_server, 'cloister_disk_bytes{kind="spare"}') < _RESERVE_MIB << 20)
        with pytest.raises(ServiceBusyException, match="were promised"):
            Sandbox.create(**full_server.sdk)
    with Sandbox.create(**full_server.sdk):
        pass


def test_team_cannot_have_more_disk_than_its_bound(stock_templates: None) -> None:
    """The supervisor refuses a creation with which the team's disks together would be too large; a killed sandbox makes room."""
    with running_server("--pool-size", "0", "--max-disk-mib-per-team", "6000") as running:
        first = Sandbox.create(**running.sdk)
        with pytest.raises(RateLimitException, match="max_disk_mib_per_team"):
            Sandbox.create(**running.sdk)
        first.kill()
        with Sandbox.create(**running.sdk):
            pass
