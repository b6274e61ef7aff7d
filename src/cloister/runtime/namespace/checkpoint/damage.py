"""Finds what a dumper that was killed has left in a sandbox.

CRIU works inside the processes that it saves: it puts a call into a process, has it executed, and takes it out again. A process whose
dumper is killed meanwhile ends, stands still, or goes on with CRIU's code and memory in it. Nothing outside can cure it.
Runs in: supervisor, in worker threads. Needs: root.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.runtime.base import BrokenSandboxError

__all__ = ["Marks", "end_strays", "find_damage", "living", "wait_untraced"]

_MARK = "/memfd:CRIUMFD"
"""The name of the memory by which CRIU talks to its code in a process."""
_CALL = bytes.fromhex("0f05cccccccccccc")
"""CRIU puts it at the start of a process's first code to have a call executed: ``syscall``, then traps."""
_STOPPED = "do_signal_stop"
_TRACED = "ptrace_stop"
"""Where the kernel has a stopped thread wait, and one that is stopped for its tracer."""
_LOOK_S = 0.01


@dataclass(frozen=True)
class Marks:
    """Signs of damage in a process. A program may have them by itself."""

    is_stopped: bool
    has_code: bool


def living(pids: Iterable[int]) -> dict[int, Marks]:
    """Those of the processes that live, zombies left out."""
    found = {}
    for pid in pids:
        threads = [(thread, status["TracerPid"] != "0") for thread, status in _statuses(pid) if status["State"][0] not in "ZX"]
        if threads:
            found[pid] = Marks(any(_is_stopped(*thread) for thread in threads), _has_leftovers(pid))
    return found


def _is_stopped(thread: Path, is_traced: bool) -> bool:
    """Its state does not tell: the freezer of version 1 shows all that it has frozen as asleep.

    That freezer also keeps a thread that it froze while it was stopped for a tracer in its place after the tracer has let go; it runs once
    it is thawed.
    """
    try:
        place = thread.joinpath("wchan").read_text()
    except OSError:  # it has ended meanwhile
        return False
    return place.startswith(_STOPPED) or (is_traced and place.startswith(_TRACED))


def end_strays(init: tuple[int, int], own: Callable[[], set[int]], timeout_s: float) -> None:
    """End the children of a killed dumper, which have its power: they are now children of the sandbox's pid 1, and not in its group.

    ``init`` is that pid 1, its number and its pidfd: when it has ended, they have too, and its number may be another process's.
    ``own`` gives the processes of the group. Raises: BrokenSandboxError.
    """

    def find() -> set[int]:
        found = _children(init[0]) - own()
        return set() if wait_pidfd(init[1], 0) else found

    while strays := find():
        for pid in strays:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid not in find():  # its number has been given away meanwhile
                    continue
                kill_pidfd(fd)
                if not wait_pidfd(fd, timeout_s):
                    raise BrokenSandboxError("a process of the killed dumper does not end")
            finally:
                os.close(fd)


def wait_untraced(pids: Iterable[int], own: Callable[[], set[int]], timeout_s: float) -> None:
    """Wait until nothing from outside traces the processes: a killed dumper lets go of them as it ends. Raises: BrokenSandboxError.

    ``own`` gives the processes of the group, which may trace each other as soon as they run.
    """
    end = time.monotonic() + timeout_s
    while {int(status["TracerPid"]) for pid in pids for _thread, status in _statuses(pid)} - {0} - own():
        if time.monotonic() > end:
            raise BrokenSandboxError("the killed dumper does not let go of the sandbox")
        time.sleep(_LOOK_S)


def find_damage(before: Mapping[int, Marks], *, was_killed: bool) -> str:
    """The damage to processes that lived ``before`` the dump (:func:`living`); empty: none.

    A dumper that ends by itself lets processes run for a moment, in which one may end. After a killed one that counts as damage, as it is
    what a trap of CRIU in a process without a dumper leads to.
    """
    now = living(before)
    for pid, had in before.items():
        if pid not in now:
            if was_killed:
                return "a process of it has ended"
        elif now[pid].is_stopped and not had.is_stopped:
            return "a process of it stands still"
        elif now[pid].has_code and not had.has_code:
            return "a process of it still has the dumper's code"
    return ""


def _children(pid: int) -> set[int]:
    """Those that live."""
    found: set[int] = set()
    for thread in _threads(pid):
        try:
            children = thread.joinpath("children").read_text()
        except OSError:
            continue
        found.update(map(int, children.split()))
    return set(living(found))


def _has_leftovers(pid: int) -> bool:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
        if any(_MARK in line for line in maps.splitlines()):
            return True
        code = re.search(r"(?m)^([0-9a-f]+)-[0-9a-f]+ ..x", maps)
        if code is None:
            return False
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(int(code[1], 16))
            return memory.read(len(_CALL)) == _CALL
    except OSError:  # it has ended meanwhile, or its first code is not readable
        return False


def _statuses(pid: int) -> list[tuple[Path, dict[str, str]]]:
    """Its threads, and the fields of their status files."""
    found = []
    for thread in _threads(pid):
        try:
            text = thread.joinpath("status").read_text(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        found.append((thread, dict(re.findall(r"(?m)^(\w+):\t *(.*)$", text))))
    return found


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
