"""Another revision of this repository, to measure it beside the present one: its sources in a directory of the cache, built.

Its server runs with the packages of the present environment and on the present store. The store keeps the agent of both.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.installed import default_cache

_ROOT = Path(__file__).parents[1]
_BUILD = "src/cloister/runtime/namespace/native/build.sh"


@contextlib.contextmanager
def revision(name: str) -> Iterator[None]:
    """While the context is open, programs that this process starts import the sources of that revision."""
    sources = _check_out(name) / "src"
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(sources)
    try:
        subprocess.run([sys.executable, "-P", "-m", "cloister.cli.main", "template", "build", "all"], check=True, stdout=subprocess.DEVNULL)
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _check_out(name: str) -> Path:
    commit = subprocess.run(
        ["git", "-C", str(_ROOT), "rev-parse", "--verify", f"{name}^{{commit}}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    place = default_cache() / "revisions" / commit
    if not (place / "built").exists():
        place.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "-C", str(_ROOT), "archive", commit], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(place)], input=archive, check=True)
        programs = place / "src/cloister/bin"
        programs.mkdir(exist_ok=True)
        subprocess.run(["sh", str(place / _BUILD), str(programs)], check=True)
        (place / "built").touch()
    return place
