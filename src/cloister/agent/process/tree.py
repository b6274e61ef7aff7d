"""The processes that belong to one that we started: its session, and every descendant whatever its session.

A program that leaves both, by double fork *and* ``setsid``, has made itself a daemon on purpose: it lives on. Terminals, jobs,
pipelines, ``sudo``, ``nohup`` and ``setsid`` alone do not leave.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["kill_tree", "signal_tree", "tree_of"]

_ROUNDS = 50


def tree_of(root: int) -> set[int]:
    """The pids of the tree that ``root`` leads, zombies left out; ``root`` itself may be gone."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.listdir("/proc"):  # noqa: PTH208  # names, not paths: this is done while something waits to be stopped
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            text = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        state, parent, _group, session = text[text.rindex(")") + 2 :].split(maxsplit=4)[:4]
        if state in ("Z", "X"):
            continue
        parents[pid] = int(parent)
        if root in (pid, int(session)):
            found.add(pid)
    growing = True
    while growing:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        growing = bool(more)
    return found


def signal_tree(root: int, number: int) -> int:
    """Signal the tree; how many there were."""
    pids = tree_of(root)
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return len(pids)


def kill_tree(root: int) -> bool:
    """SIGKILL for the tree, again and again, since one may fork between being seen and being killed. Whether there was any."""
    killed = False
    for _ in range(_ROUNDS):
        if not signal_tree(root, signal.SIGKILL):
            break
        killed = True
    return killed
