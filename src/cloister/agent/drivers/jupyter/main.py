"""Starts the bridge to a Jupyter kernel, ``bridge.py``: Python loads the byte code of a module, but compiles a script at each start."""

# ruff: noqa: PTH100, PTH118, PTH120 - importing pathlib would make the bridge's start longer
from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = True
_DRIVERS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [_DRIVERS, os.path.join(os.path.dirname(_DRIVERS), "site")]  # -I and -S leave them out of the path

from jupyter.bridge import main  # noqa: E402 - found by the line above

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
