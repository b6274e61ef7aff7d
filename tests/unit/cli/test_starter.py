"""Which programs wait for the code interpreter, and which run in the template ``starter``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli.starter import needs_beyond_starter


@pytest.mark.parametrize(
    ("language", "source", "needs"),
    [
        ("python", b"import os.path, json\nfrom . import beside\nprint(1)", ""),
        ("python", b"def f():\n    from matplotlib import pyplot\nimport numpy as np, os", "imports matplotlib, numpy"),
        ("python", b"import a, b, c, d", "imports a, b, c and more"),
        ("python", b"import numpy; 1 +", ""),
        ("python", b"\0import numpy", ""),
        ("bash", b"echo 1", ""),
        ("javascript", b"console.log(1)", "is javascript"),
    ],
)
def test_a_program_waits_for_what_its_text_names(language: str, source: bytes, needs: str) -> None:
    """Modules beyond the standard library, anywhere in it, and every other language. Python itself shows a fault of the text."""
    assert needs_beyond_starter(language, source) == needs


def test_quickstart_is_told_the_same_of_a_file(tmp_path: Path) -> None:
    """By the extension; an unknown one waits."""
    words = {}
    for name in ("a.py", "a.SH", "a.ts", "a.rb"):
        (tmp_path / name).write_text("import numpy" if name == "a.py" else "")
        words[name] = subprocess.check_output([sys.executable, "-m", "cloister.cli.starter", tmp_path / name], text=True)
    assert words == {"a.py": "imports numpy", "a.SH": "", "a.ts": "is typescript", "a.rb": "is a program of an unknown language"}
