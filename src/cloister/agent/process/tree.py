"""The processes that belong to one that the agent started: its session, and every descendant in any session.

A program that leaves both, by double fork *and* ``setsid``, is a daemon on purpose and lives on. Terminals, jobs, pipelines, ``sudo``,
``nohup`` and ``setsid`` alone do not leave.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["Killer", "kill_tree", "signal_tree", "tree_of"]

_ROUNDS = 50
_PROC = Path("/proc")


def tree_of(root: int, proc: Path = _PROC) -> dict[int, int]:
    """The tree of ``root`` without zombies, as pids with their start times; ``root`` itself may be gone."""
    parents: dict[int, int] = {}
    started: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.listdir(proc):  # noqa: PTH208 - names, not paths: this is done while something waits to be stopped
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            text = Path(f"{proc}/{entry}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        fields = text[text.rindex(")") + 2 :].split()
        state, parent, session = fields[0], int(fields[1]), int(fields[3])
        if state in ("Z", "X"):
            continue
        parents[pid] = parent
        started[pid] = int(fields[19])
        if root in (pid, session):
            found.add(pid)
    growing = True
    while growing:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        growing = bool(more)
    return {pid: started[pid] for pid in sorted(found)}


def signal_tree(root: int, number: int) -> int:
    """Signal the tree. Gives the number of processes."""
    return len(_signal(tree_of(root), number))


def kill_tree(root: int) -> bool:
    """Send SIGKILL to the tree. Whether there was any process."""
    return Killer(root).kill()


class Killer:
    """Kills one tree, and remembers the processes that it has killed: each counts once, however long it takes to die."""

    def __init__(self, root: int, proc: Path = _PROC) -> None:
        self._root = root
        self._proc = proc
        self._killed: set[tuple[int, int]] = set()

    def kill(self) -> bool:
        """Send SIGKILL until no process is left, since one may fork before it is killed. Whether it killed any for the first time."""
        before = len(self._killed)
        for _ in range(_ROUNDS):
            found = _signal(tree_of(self._root, self._proc), signal.SIGKILL)
            if not found:
                break
            self._killed.update(found.items())
        return len(self._killed) > before


def _signal(tree: dict[int, int], number: int) -> dict[int, int]:
    for pid in tree:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return tree
