"""A small file system of its own, for tests that fill it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["small_disk"]


@contextmanager
def small_disk(size_mib: int) -> Iterator[Path]:
    """An empty ext4 of that size, mounted at a directory that every user may enter; afterwards nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        image, place = directory / "small.img", directory / "disk"
        with image.open("wb") as file:
            os.truncate(file.fileno(), size_mib << 20)
        subprocess.run(["mkfs.ext4", "-qF", "-m", "0", image], check=True)
        place.mkdir()
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
