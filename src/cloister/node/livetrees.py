"""What the live sandboxes of every server of this host stand on, from the servers' journals: also while a supervisor is away."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from cloister.linux.process import open_pidfd
from cloister.node.instance import INSTANCES
from cloister.template.garbage import LiveTrees

__all__ = ["live_trees"]


def live_trees(run_root: Path) -> LiveTrees:
    """Read it from the journals of the servers that hold an instance number below ``run_root``.

    A sandbox whose entry does not tell (an older version wrote it) makes the answer incomplete, unless it has ended.
    """
    trees: set[Path] = set()
    is_whole = True
    for number in range(INSTANCES):
        with contextlib.suppress(FileNotFoundError):
            owner = (run_root / "instances" / str(number)).read_text()
            for record in Path(owner).glob("node/sandboxes/*/record.json") if owner else ():
                found = _trees_of(record)
                is_whole = is_whole and found is not None
                trees.update(found or ())
    return LiveTrees(frozenset(trees), is_whole)


def _trees_of(record: Path) -> list[Path] | None:
    """None: it lives, or may, and does not tell."""
    try:
        state = json.loads(record.read_text())["runtime"]
    except FileNotFoundError:  # it has just ended
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state is None:  # its creation has only begun, in a supervisor that holds what it takes
        return []
    if "trees" in state:
        return [Path(tree) for tree in state["trees"]]
    pidfd = open_pidfd(state["pid"], state["start_ticks"])
    if pidfd is None:
        return []
    os.close(pidfd)
    return None
