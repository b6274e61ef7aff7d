"""Modules that Python imports late, and the api process before it gives up its rights: afterwards it may not read their files."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import json, sys
import cloister.processes.api
sys.meta_path.clear()
for name in ("utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"):
    assert json.loads("[1]".encode(name)) == [1]
assert "b\\xfccher.example".encode("idna")
"""


def test_bodies_in_any_form_of_unicode_are_read_without_a_further_import() -> None:
    """Python's json reads them all. A codec that cannot be imported would be an internal error."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=60)
