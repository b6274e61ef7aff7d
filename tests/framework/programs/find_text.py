"""Looks for a text in all that code in a sandbox can read: memory, arguments and variables of processes, and files.

Usage: ``find_text.py FIRST_HALF SECOND_HALF``. Prints JSON: ``found`` has the places with the text, ``read`` how many were looked at.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

NEEDLE = (sys.argv[1] + sys.argv[2]).encode()
CHUNK = 1 << 20
SKIPPED = ("/proc/", "/sys/", "/dev/")
found: list[str] = []
read = {"processes": 0, "mappings": 0, "files": 0}


def has_needle(path: str) -> bool:
    """Whether a file has the text, also across two reads."""
    with Path(path).open("rb", buffering=0) as file:
        before = b""
        while piece := file.read(CHUNK):
            if NEEDLE in before + piece:
                return True
            before = piece[-len(NEEDLE) :]
    return False


def look_into(pid: str) -> None:
    """Look into one process, as far as this user may."""
    shown = (f"/proc/{pid}/cmdline", f"/proc/{pid}/environ")
    found.extend(path for path in shown if NEEDLE in Path(path).read_bytes())
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        read["processes"] += 1
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, modes = line.split()[:2]
            start, end = (int(one, 16) for one in bounds.split("-"))
            if not modes.startswith("r") or "[v" in line:
                continue
            read["mappings"] += 1
            for at in range(start, end, CHUNK):
                try:
                    memory.seek(at)
                    piece = memory.read(min(CHUNK + len(NEEDLE), end - at))
                except (OSError, ValueError, OverflowError):
                    break
                if NEEDLE in piece:
                    found.append(f"/proc/{pid}/mem {line}")
                    break


for entry in os.listdir("/proc"):  # noqa: PTH208 - no pathlib object is made for each
    if entry.isdigit() and int(entry) != os.getpid():
        try:
            look_into(entry)
        except OSError:
            continue
for directory, _, names in os.walk("/"):
    if directory.startswith(SKIPPED) or directory in {"/proc", "/sys", "/dev"}:
        continue
    for name in names:
        path = os.path.join(directory, name)  # noqa: PTH118 - as above
        try:
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 1 << 30:  # noqa: PTH113, PTH114, PTH202 - as above
                read["files"] += 1
                if has_needle(path):
                    found.append(path)
        except OSError:
            continue
print(json.dumps({"found": found, "read": read}))
