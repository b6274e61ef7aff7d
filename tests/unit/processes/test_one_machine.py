"""One machine has nothing of a cluster."""

from __future__ import annotations

import subprocess
import sys

_SHOW = "import sys, cloister.processes.api; print(*(name for name in sys.modules if 'cluster' in name or name.startswith('psycopg')))"
_KNOWN = {f"cloister.cluster{name}" for name in ("", ".base", ".link", ".local", ".one", ".session")}


def test_the_api_process_imports_no_module_of_a_cluster() -> None:
    """Only the interface of nodes, and the client of the one on this machine."""
    done = subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == _KNOWN | {"cloister.model.cluster"}
