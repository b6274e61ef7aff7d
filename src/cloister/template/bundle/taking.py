"""Takes unpacked trees into the store: holds those that it has already, checks the room for the others, and publishes them.

A tree that the store has is never replaced. Needs: root.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cloister.errors import NoCapacityError, StoreError
from cloister.linux.syscall import sync_filesystem
from cloister.template.bundle.manifest import Part
from cloister.template.layers import LayerStore, Workspace

__all__ = ["check_room", "has_tree", "hold_tree", "publish_tree"]

_RESERVE_BYTES = 1 << 30
_ENTRY_BYTES = 4096


def hold_tree(part: Part, store: LayerStore, stack: ExitStack) -> bool:
    """Whether the store has the tree; it has it then until ``stack`` ends, at least."""
    try:
        if part.kind == "layers":
            stack.enter_context(store.hold([part.key]))
        else:
            store.keep([_agent_tree(part, store)])
    except (StoreError, FileNotFoundError):
        return False
    return True


def has_tree(part: Part, store: LayerStore) -> bool:
    """Whether the store has the tree now; a collector may remove it."""
    return store.has(part.key) if part.kind == "layers" else _agent_tree(part, store).is_dir()


def check_room(parts: Sequence[Part], store: LayerStore, more_bytes: int = 0) -> None:
    """Check that ``parts`` can be unpacked, and ``more_bytes`` written, with a reserve. Raises: NoCapacityError."""
    room = os.statvfs(store.root)
    needed = sum(part.content_bytes + part.entries * _ENTRY_BYTES for part in parts) + _RESERVE_BYTES + more_bytes
    free = room.f_bavail * room.f_frsize
    if needed > free:
        message = f"the archives unpack to {needed >> 20} MiB with a reserve, and {store.root} has {free >> 20} MiB free"
        raise NoCapacityError(message, hint="free some space, or set store_dir to another disk")
    if room.f_files and sum(part.entries for part in parts) > room.f_favail:
        raise NoCapacityError(f"the file system of {store.root} has too few inodes free", hint="set store_dir to another disk")


def publish_tree(part: Part, workspace: Workspace, store: LayerStore) -> None:
    """Make the tree that was unpacked in ``workspace`` a layer, or the agent's tree. Of two publishers the first wins.

    Raises: StoreError.
    """
    if part.layer is not None:
        layer = part.layer
        store.publish(workspace, part.key, layer.name, layer.parent, layer.build_s, size_bytes=layer.size_bytes)
    elif not _agent_tree(part, store).is_dir():
        sync_filesystem(store.root)
        workspace.upper.rename(_agent_tree(part, store))


def _agent_tree(part: Part, store: LayerStore) -> Path:
    return store.root / "agent" / part.key
