"""Starts the bridge to a Jupyter kernel, ``jupyter_bridge.py``: Python loads a module's byte code, and compiles a script at each start."""

# ruff: noqa: PTH100, PTH118, PTH120 - importing pathlib would make the bridge's start longer
from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = True
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [_HERE, os.path.join(os.path.dirname(_HERE), "site")]  # -I and -S leave them out

from jupyter_bridge import main  # noqa: E402  # found by the line above

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
