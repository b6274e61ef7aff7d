"""The standard streams of the Python driver, in a process of the test's own interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cloister

_DRIVERS = Path(cloister.__file__).parent / "agent" / "drivers" / "python"
_CODE = f"""
import os, sys
sys.path.insert(0, {str(_DRIVERS)!r})
from cloister_kernel import streams
streams.install_streams()
reading, writing = os.pipe()
os.dup2(writing, 1)
streams.renew_streams()
print("seen")
os.write(2, os.read(reading, 100) + str(sys.stdout.seekable()).encode())
"""


def test_streams_of_a_forked_kernel_know_their_new_descriptors(tmp_path: Path) -> None:
    """A zygote's output may be a file, which can be sought in; the pipes that a forked kernel gets in its place cannot."""
    with (tmp_path / "out").open("wb") as file:
        done = subprocess.run([sys.executable, "-c", _CODE], stdout=file, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"seen\nFalse"
    assert done.returncode == 0
