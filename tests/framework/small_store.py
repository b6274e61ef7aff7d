"""A store with the keys and records of the real one, and trees of a few odd files, so that tests of transfers take no time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cloister.template.agenttree import agent_tree
from cloister.template.layers import LayerStore
from framework.template_store import real_store

__all__ = ["contents_of", "make_small_store"]


def make_small_store(root: Path) -> LayerStore:
    """The base template and the agent. Needs the real ones."""
    real, made = LayerStore(real_store(), create=False), LayerStore(root)
    template = real.template("base")
    for key in template.layers:
        with made.workspace(key) as workspace:
            tree = workspace.upper
            for name, mode, uid in (("program", 0o4755, 0), ("file", 0o640, 1000), ("a name ü" + "x" * 150, 0o600, 65534)):
                path = tree / "usr" / "bin" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(os.urandom(3000))
                os.chown(path, uid, uid)
                path.chmod(mode)
                os.utime(path, (1_000_000_000, 1_000_000_000))
            (tree / "usr" / "hard").hardlink_to(tree / "usr" / "bin" / "file")
            (tree / "etc").symlink_to("/proc/1/root")
            os.mknod(tree / "hidden", stat.S_IFCHR, 0)
            os.setxattr(tree / "usr", "user.overlay.opaque", b"y")
            os.utime(tree / "usr", (1_000_000_000, 1_000_000_000))
            made.publish(workspace, key, real.layer(key).name, real.layer(key).parent, 1.0)
    made.write_template(template)
    agent = made.root / "agent" / agent_tree(real.root, template).name
    (agent / "site").mkdir(parents=True)
    (agent / "site" / "main.py").write_text("pass\n")
    return made


def contents_of(root: Path) -> dict[str, object]:
    """Everything of each file that a transfer keeps."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        first = inodes.setdefault(status.st_ino, name)
        is_link, is_file, is_directory = (check(status.st_mode) for check in (stat.S_ISLNK, stat.S_ISREG, stat.S_ISDIR))
        content = path.readlink() if is_link else path.read_bytes() if is_file else b""
        attributes = {one: os.getxattr(path, one) for one in os.listxattr(path)} if is_directory else {}
        found[name] = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), status.st_rdev, content, first, attributes)
    return found
