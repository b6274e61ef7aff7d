"""The disk rate of a sandbox is bounded for every kind of write, and a neighbour's ``fsync`` stays fast (I6)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.linux.blkio import Rates, bound_device_v1, bound_device_v2
from cloister.linux.cgroup import find_tree
from framework.inside import pids_of, python
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow, pytest.mark.alone]

_MIB_PER_S = 20
_TIMED = """
import mmap, os, time
def timed(kind, mib):
    block = mmap.mmap(-1, 1 << 20)
    block.write(os.urandom(1 << 20))
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | (0 if kind == "buffered" else os.O_DIRECT)
    fd = os.open("/home/user/timed", flags)
    if kind == "read":
        for _ in range(8):
            os.write(fd, block)
    began = time.monotonic()
    for number in range(mib):
        if kind == "read":
            os.preadv(fd, [block], (number % 8) << 20)
        else:
            os.write(fd, block)
    os.fsync(fd)
    os.close(fd)
    return time.monotonic() - began
"""
_FSYNC = """
import os, time
def waits(count):
    fd, found = os.open("/home/user/small", os.O_WRONLY | os.O_CREAT), []
    for _ in range(count):
        began = time.monotonic()
        os.pwrite(fd, os.urandom(4096), 0)
        os.fsync(fd)
        found.append(time.monotonic() - began)
    os.close(fd)
    return sorted(found)[count // 2]
"""
_FLOOD = """
import subprocess
subprocess.Popen(["sh", "-c", "for i in 1 2 3 4; do (while :; do dd if=/dev/zero of=/home/user/flood.$i bs=1M count=300 oflag=direct; done) & done"],
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


@pytest.fixture(scope="module")
def slow_server(stock_templates: None) -> Iterator[Server]:
    """A server that bounds disks to a small rate."""
    with running_server("--pool-size", "0", "--disk-mib-per-s", str(_MIB_PER_S)) as running:
        yield running


def loop_of(server: Server, sandbox: Sandbox) -> int:
    """The number of the sandbox's loop device, which the journal knows."""
    entry = server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json"
    return int(eventually(lambda: str(json.loads(entry.read_text())["runtime"].get("loop", ""))))


def bound(server: Server, sandbox: Sandbox, bytes_per_s: int | None) -> None:
    """Give the disk another bound, or none, from the host."""
    number, tree, rates = loop_of(server, sandbox), find_tree(0), Rates(bytes_per_s, None)
    if tree.version == 1:
        bound_device_v1(number, rates)
    else:
        instance = next(path for path in Path("/sys/fs/cgroup/cloister").iterdir() if (path / sandbox.sandbox_id).is_dir())
        bound_device_v2(number, rates, instance / sandbox.sandbox_id)


@pytest.mark.parametrize("kind", ["direct", "buffered", "read"])
def test_sandbox_cannot_use_its_disk_faster_than_its_rate(slow_server: Server, kind: str) -> None:
    """Past the page cache and through it, writing and reading take the time of the rate; without the bound they are much faster."""
    with Sandbox.create(**slow_server.sdk) as sandbox:
        python(sandbox, _TIMED)
        bounded_s = float(python(sandbox, f"print(timed({kind!r}, 50))"))
        assert bounded_s > 50 / _MIB_PER_S * 0.6
        bound(slow_server, sandbox, None)
        assert float(python(sandbox, f"print(timed({kind!r}, 50))")) < bounded_s / 2


def test_sandbox_cannot_delay_anothers_fsync_by_a_flood(slow_server: Server) -> None:
    """Beside four writers of a sandbox a neighbour's ``fsync`` takes hardly longer than alone."""
    with Sandbox.create(**slow_server.sdk) as neighbour, Sandbox.create(**slow_server.sdk) as attacker:
        python(neighbour, _FSYNC)
        alone_s = float(python(neighbour, "print(waits(100))"))
        python(attacker, _FLOOD)
        assert float(python(neighbour, "print(waits(100))")) < alone_s * 10 + 0.02


def test_sandbox_cannot_outlive_its_kill_by_waiting_for_its_disk(slow_server: Server) -> None:
    """A process that waits for its disk cannot be killed until its data is stored, which takes minutes at a low rate: a kill clears the rate."""
    sandbox = Sandbox.create(**slow_server.sdk)
    sandbox.commands.run("dd if=/dev/zero of=/home/user/big bs=1M count=100")
    bound(slow_server, sandbox, 1 << 19)
    sandbox.commands.run("sync", background=True)
    eventually(lambda: any(" D " in Path(f"/proc/{pid}/stat").read_text() for pid in pids_of(sandbox) if Path(f"/proc/{pid}").exists()))
    assert sandbox.kill()
    assert "did not end after SIGKILL" not in slow_server.log.read_text()
