"""Checks whether the api process can reach a directory, by trying it as the api process's user.

A mode alone does not tell: access lists and security modules decide too.
"""

from __future__ import annotations

import os
from pathlib import Path

from cloister.node.instance import Instance

__all__ = ["first_closed_directory"]

_CHECK_FAILED = 255


def first_closed_directory(path: Path) -> Path | None:
    """The topmost of ``path`` and its parents that the api process's user cannot traverse. None: it can traverse all that exist.

    Needs root; without root it checks nothing. It forks, so call it before threads are started.
    """
    if os.geteuid() != 0:
        return None
    uid = Instance(0, Path(), -1, Path()).api_uid
    steps = [*reversed(path.parents), path]
    pid = os.fork()
    if pid == 0:
        os._exit(_try_as(uid, steps))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return steps[code - 1] if 0 < code <= len(steps) else None


def _try_as(uid: int, steps: list[Path]) -> int:
    """Runs in: the child. The position of the first closed step, counted from 1; 0: all are open."""
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        for number, step in enumerate(steps, 1):
            try:
                (step / "x").stat()
            except PermissionError:
                return number
            except FileNotFoundError:
                if not step.exists():
                    return 0
            except OSError:
                return 0
    except BaseException:  # noqa: BLE001 - a forked child never returns into the caller
        return _CHECK_FAILED
    return 0
