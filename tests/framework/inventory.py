"""The inventory of /proc, /sys and /dev in a sandbox (tests/security/proc_inventory.txt), and the walk that checks it.

Each line is ``class pattern reason``. Classes:

    own      tells of the sandbox alone: of its namespaces, or written for it
    fixed    written by the server, the same in all its sandboxes (``runtime/namespace/proctree.py``)
    masked   covered: nothing to be read, whatever is below
    host     tells something of the host or of neighbours, and cannot be hidden: the reason says what and why

A pattern is a path in which ``<pid>``, ``<tid>``, ``<n>`` and ``<name>`` stand for what differs from one sandbox to the next; ``/**`` at
its end is everything below. The longest pattern that fits decides.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from e2b_code_interpreter import Sandbox

from framework.inside import shell

__all__ = ["CLASSES", "INVENTORY", "Entry", "Seen", "find_entry", "masked_names", "read_inventory", "walk"]

INVENTORY = Path(__file__).parents[1] / "security" / "proc_inventory.txt"
CLASSES = ("own", "fixed", "masked", "host")

_WALKER = r"""
import base64, json, os, re, stat, sys, zlib
me = str(os.getpid())
memory = os.stat("/dev").st_dev
seen = {}
def look(path):
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return "link", os.readlink(path)
        if stat.S_ISDIR(found.st_mode):
            is_mask = not os.listdir(path) and found.st_dev == memory
            return "mask" if is_mask else "directory", ""
        if path.startswith("/dev/"):
            return "file", ""
        is_null = stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = b""
            while len(data) < 1 << 16 and (part := os.read(fd, 1 << 16)):
                data += part
        finally:
            os.close(fd)
        return "mask" if is_null and not data else "file", data.decode("latin-1")
    except OSError as error:
        return "refused", error.strerror
def visit(path):
    kind, text = seen[path] = look(path)
    if kind != "directory":
        return
    for name in sorted(os.listdir(path)):
        if path == "/proc" and name.isdigit() and name != me:
            continue
        visit(f"{path}/{name}")
for top in ("/proc", "/sys", "/dev"):
    visit(top)
sys.stdout.write(base64.b64encode(zlib.compress(json.dumps(seen).encode())).decode())
"""

_NORMAL = (
    (re.compile(r"^/proc/\d+"), "/proc/<pid>"),
    (re.compile(r"^/proc/<pid>/task/\d+/"), "/proc/<pid>/task/<tid>/"),
    (re.compile(r"^/proc/<pid>/task/\d+$"), "/proc/<pid>/task/<tid>"),
    (re.compile(r"^(/proc/<pid>(?:/task/<tid>)?/(?:fd|fdinfo|map_files))/.*"), r"\1/<n>"),
    (re.compile(r"^(/proc/<pid>(?:/task/<tid>)?/net/dev_snmp6)/.*"), r"\1/<name>"),
    (re.compile(r"^(/dev/(?:pts|shm|mqueue))/.*"), r"\1/<name>"),
)


@dataclass(frozen=True)
class Entry:
    """One line of the inventory."""

    kind: str
    pattern: str
    reason: str


@dataclass(frozen=True)
class Seen:
    """An entry of a sandbox's file system: ``text`` is a file's bytes as Latin-1, or a link's target.

    ``kind`` is file, directory, link, refused, or mask: the null device in the place of a file, an empty directory of the sandbox's memory.
    """

    path: str
    normal: str
    kind: str
    text: str


def read_inventory() -> list[Entry]:
    """The lines of the inventory, in their order."""
    lines = [line for line in INVENTORY.read_text().splitlines() if line and not line.startswith("#")]
    return [Entry(*[*line.split(None, 2), ""][:3]) for line in lines]


def find_entry(entries: list[Entry], normal: str) -> Entry | None:
    """The entry that decides about a normalised path; what is below a task is as what is below its process."""
    path = re.sub(r"^/proc/<pid>/task/<tid>/", "/proc/<pid>/", normal)
    fitting = [entry for entry in entries if _fits(entry.pattern, path)]
    return max(fitting, key=lambda entry: len(entry.pattern), default=None)


def _fits(pattern: str, path: str) -> bool:
    if pattern.endswith("/**"):
        return path.startswith(pattern[:-2])
    return pattern == path


def masked_names() -> list[str]:
    """Names at the top of /proc that are masked or replaced by a fixed file, including names that this kernel lacks."""
    tops = [(entry.kind, entry.pattern.removeprefix("/proc/")) for entry in read_inventory() if entry.pattern.startswith("/proc/")]
    return [name for kind, name in tops if kind in ("masked", "fixed") and "/" not in name]


def walk(sandbox: Sandbox, user: str) -> list[Seen]:
    """Everything below /proc, /sys and /dev that ``user`` sees; of the directories of processes only the walker's own."""
    packed = base64.b64encode(_WALKER.encode()).decode()
    done = shell(sandbox, f"echo {packed} | base64 -d > /tmp/walk-{user}.py; python3 /tmp/walk-{user}.py", user=user, timeout=120)
    assert done.status == 0, done.text
    found: dict[str, tuple[str, str]] = json.loads(zlib.decompress(base64.b64decode(done.text)))
    return [Seen(path, _normalised(path), kind, text) for path, (kind, text) in found.items()]


def _normalised(path: str) -> str:
    for pattern, replacement in _NORMAL:
        path = pattern.sub(replacement, path)
    return path
