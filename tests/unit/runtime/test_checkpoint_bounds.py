"""The bounds of a dump and of a copy on the host's disk, and the processes that a dump takes for the sandbox's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import ConflictError, DeadlineError, NoCapacityError, UnavailableError
from cloister.runtime.namespace.checkpoint import dump
from cloister.runtime.namespace.checkpoint.criu import Criu
from cloister.runtime.namespace.checkpoint.damage import end_strays
from cloister.runtime.namespace.checkpoint.refusals import check_size
from cloister.runtime.namespace.runtime import NamespaceRuntime

_MIB = 1 << 20
_SHARING = f"""
import os, sys
memory = bytearray(os.urandom({_MIB}) * 16)
ends = os.pipe()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        os.close(ends[1]); os.read(ends[0], 1); os._exit(0)
    children.append(pid)
print(*children, flush=True)
sys.stdin.read()
"""
_NAMED = """
import sys
open('/proc/self/comm', 'w').write('NSpid:x')
print('named', flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(code: str) -> Iterator[tuple[int, str]]:
    """A Python program that has printed a line; gives its number and the line."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()


def test_memory_that_processes_share_counts_once_for_each() -> None:
    """So much CRIU would write."""
    with running(_SHARING) as (pid, line):
        pids = [pid, *map(int, line.split())]
        check_size(pids[:1], 60 * _MIB)
        with pytest.raises(ConflictError, match="more than 60 MiB, because its processes share much of it"):
            check_size(pids, 60 * _MIB)
        check_size([*pids, 1 << 30], 1 << 40)  # one has ended


def test_a_dumper_that_writes_too_much_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or when the disk is nearly full, whoever filled it."""
    (tmp_path / "pages-1.img").write_bytes(b"x" * 8192)
    monkeypatch.setattr(dump, "ROOM", 0)
    dump._check_room(tmp_path, 1 * _MIB)
    with pytest.raises(ConflictError, match="more than 0 MiB on disk"):
        dump._check_room(tmp_path, 4096)
    monkeypatch.setattr(dump, "ROOM", 1 << 60)
    with pytest.raises(UnavailableError, match="no room"):
        dump._check_room(tmp_path, 1 * _MIB)


def test_a_dumper_is_watched_and_killed() -> None:
    """All the time, until the watch raises; else it would go on for a minute."""
    entry = cast("Any", SimpleNamespace(environment=dict, descriptors=tuple))
    looks = []

    def watch() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise ConflictError("too much")

    with pytest.raises(ConflictError, match="too much"):
        Criu(argv=("/bin/sleep",), version="0").run(("60",), entry, (), 60.0, watch)
    with pytest.raises(DeadlineError, match="longer than 0 s"):
        Criu(argv=("/bin/sleep",), version="0").run(("60",), entry, (), 0.0)


def test_the_name_of_a_process_is_not_its_number() -> None:
    """A program chooses its name, which stands in the same file."""
    own = int((Path("/proc/self/status").read_text().split("NSpid:")[1].split("\n")[0]).split()[-1])
    with running(_NAMED) as (named, _line):
        assert dump._pid_inside([named, os.getpid()], own) == os.getpid()
        with pytest.raises(ConflictError, match="has ended"):
            dump._pid_inside([named], 1 << 30)


def test_nothing_is_ended_for_a_sandbox_that_has_ended() -> None:
    """The number of its pid 1 may be another process's by now, whose children are no dumper's."""
    with running(_NAMED) as (child, _line), subprocess.Popen(["true"]) as ended:
        pidfd = os.pidfd_open(ended.pid)
        try:
            ended.wait()
            end_strays((os.getpid(), pidfd), set, 1.0)
        finally:
            os.close(pidfd)
        assert Path(f"/proc/{child}/status").read_text().split("State:\t")[1][0] != "Z"


def test_the_disk_of_a_copy_is_claimed_first(tmp_path: Path) -> None:
    """Else copies that are made at a time fill the host's disk together, and other sandboxes lose what they have written."""
    original, own = tmp_path / "capture", tmp_path / "own"
    original.mkdir()
    own.mkdir()
    (original / "disk.img").write_bytes(b"x" * _MIB)
    claims = []

    def claim(directory: Path, size: int) -> Any:
        claims.append((directory, size))
        raise NoCapacityError("too little")

    runtime = NamespaceRuntime.__new__(NamespaceRuntime)
    nothing = SimpleNamespace(unlock=lambda _: None)
    vars(runtime).update(
        _checkpoints=SimpleNamespace(check=lambda *_: SimpleNamespace(trees=())),
        _resources=SimpleNamespace(hold=lambda _: None, tree_locks=nothing, space=SimpleNamespace(claim=claim)),
    )
    spec = cast("Any", SimpleNamespace(trees=(), directory=own))
    with pytest.raises(NoCapacityError):
        runtime.restore(spec, original / "memory", lambda _: None, original)
    assert claims == [(own, (original / "disk.img").stat().st_blocks * 512)]
    assert list(own.iterdir()) == []
