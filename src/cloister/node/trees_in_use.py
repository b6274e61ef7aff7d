"""The trees that live and paused sandboxes, and captures with memory, of all servers of this host use, as root or as interpreter.

The servers' journals name them, also while a supervisor does not run. A live sandbox is in the journal of a server that holds an instance
number. That is forgotten when a server stops or the host restarts, but a sandbox whose disk is kept needs its layers for longer. Each
server therefore also notes its data directory in the store, ``<store>/servers/<digest>``. The note goes with the server, or with the
directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cloister.errors import StoreError
from cloister.linux.files import make_directory, write_whole
from cloister.linux.process import open_pidfd
from cloister.model.sandbox import SandboxState
from cloister.node.instance import INSTANCES
from cloister.template.garbage import TreesInUse

__all__ = ["forget_server", "note_server", "other_servers", "trees_in_use"]

_SERVERS = "servers"


def note_server(store: Path, data_dir: Path) -> None:
    """Note in the store that the journal of ``data_dir`` counts, from now on. Raises: OSError."""
    path = data_dir.resolve()
    make_directory(store / _SERVERS)
    note = {"data_dir": str(path), "filesystem": os.statvfs(path).f_fsid}
    write_whole(_note_of(store, data_dir), json.dumps(note), is_durable=True)


def forget_server(store: Path, data_dir: Path) -> None:
    """Remove the note at the end of a server, unless it keeps a sandbox or a capture with memory. Raises: OSError."""
    if not any(data_dir.glob("node/sandboxes/*")) and not any(data_dir.glob("node/captures/*")):
        _note_of(store, data_dir).unlink(missing_ok=True)


def other_servers(store: Path, data_dir: Path) -> list[Path]:
    """The data directories of other servers that use ``store`` or keep sandboxes of its templates. Raises: StoreError."""
    return sorted(path for path in _noted(store) if path != data_dir.resolve())


def _note_of(store: Path, data_dir: Path) -> Path:
    return store / _SERVERS / hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:32]


def trees_in_use(run_root: Path, store: Path) -> TreesInUse:
    """The trees named in the journals of all servers that hold an instance number below ``run_root``, or are noted in ``store``.

    An entry of an older version does not name its trees. If its sandbox may live, the answer is not whole.
    Raises: StoreError: the data directory of a server is not mounted.
    """
    trees: set[Path] = set()
    is_whole = True
    for data_dir in {*_running(run_root), *_noted(store)}:
        for record in data_dir.glob("node/sandboxes/*/record.json"):
            found = _trees_of(record)
            is_whole = is_whole and found is not None
            trees.update(found or ())
        for manifest in data_dir.glob("node/captures/*/memory/manifest.json"):
            trees.update(_trees_of_image(manifest))
    return TreesInUse(frozenset(trees), is_whole)


def _running(run_root: Path) -> Iterator[Path]:
    for number in range(INSTANCES):
        with contextlib.suppress(FileNotFoundError):
            owner = (run_root / "instances" / str(number)).read_text()
            if owner:
                yield Path(owner)


def _noted(store: Path) -> Iterator[Path]:
    """Data directories that exist. The note of one that was removed is removed."""
    for note in (store / _SERVERS).glob("[!.]*"):
        try:
            found = json.loads(note.read_text())
            data_dir, filesystem = Path(found["data_dir"]), found["filesystem"]
        except FileNotFoundError:  # another collector has removed it
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{note} is damaged", hint="start the server that uses this store again, then remove the file") from error
        if (data_dir / "node").is_dir():
            yield data_dir
        elif _filesystem_at(data_dir) == filesystem:
            note.unlink(missing_ok=True)
        else:
            message = f"the data directory {data_dir} of a server is not there, and its paused sandboxes may need layers"
            raise StoreError(message, hint=f"mount its file system; if it was removed for good, remove {note}")


def _filesystem_at(path: Path) -> int:
    """The id of the file system that ``path`` is on, or would be."""
    while not path.exists():
        path = path.parent
    return os.statvfs(path).f_fsid


def _trees_of_image(manifest: Path) -> list[Path]:
    """The trees that a memory image needs. One whose manifest cannot be read cannot be restored, and needs none."""
    try:
        return [Path(tree) for tree in json.loads(manifest.read_text())["trees"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _trees_of(record: Path) -> list[Path] | None:
    """The trees of one entry. None: its sandbox lives or is paused, or may be, and the entry does not name them."""
    try:
        data = json.loads(record.read_text())
        state, is_begun = data["runtime"], data["record"]["state"] == SandboxState.CREATING
    except FileNotFoundError:  # it has just ended
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state is None:  # its creation has begun; the supervisor locks the trees that it uses
        return [] if is_begun else None
    if "trees" in state:
        return [Path(tree) for tree in state["trees"]]
    pidfd = open_pidfd(state["pid"], state["start_ticks"])
    if pidfd is None:
        return []
    os.close(pidfd)
    return None
