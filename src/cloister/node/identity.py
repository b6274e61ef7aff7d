"""The node's own id, which rows of sandboxes and builds carry.

Owns ``<data>/node/node_id``. The file stands beside the journal, so an id and the sandboxes under it are kept or lost together. A copy of
a data directory is the same node: two servers must not run on copies.
"""

from __future__ import annotations

import os
from pathlib import Path

from cloister.errors import UnusableStateError
from cloister.ids import is_node_id, new_node_id
from cloister.linux.files import write_whole

__all__ = ["load_node_id"]


def load_node_id(directory: Path) -> str:
    """The id of the node whose data is in ``directory``; a first call makes it.

    Raises:
        UnusableStateError: the file holds something else.
        OSError: it cannot be read or written.
    """
    path = directory / "node_id"
    try:
        node_id = path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return _make(path)
    if not is_node_id(node_id):
        remedy = "restore it, or remove it: the node then gets a new id, and sandboxes of the old one count as lost"
        raise UnusableStateError(f"{path} does not hold the id of a node", hint=remedy)
    return node_id


def _make(path: Path) -> str:
    node_id = new_node_id()
    write_whole(path, f"{node_id}\n")
    for synced in (path, path.parent):  # a loss of power must not change the id: rows of the store have it from now on
        descriptor = os.open(synced, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return node_id
