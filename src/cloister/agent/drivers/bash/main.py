"""Starts the bash driver, ``shell.py``: Python loads the byte code of a module, but compiles a script at each start."""

# ruff: noqa: PTH100, PTH120 - importing pathlib would double the driver's start time
from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = True
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # -I leaves it out of the path

from bash.shell import main  # noqa: E402 - found by the line above

if __name__ == "__main__":
    sys.exit(main())
