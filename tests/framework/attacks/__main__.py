"""``python3 -m attacks FAMILY``: attempt the attacks of one module."""

from __future__ import annotations

import importlib
import json
import sys

from .base import attempt_all

if __name__ == "__main__":
    family = importlib.import_module(f".{sys.argv[1]}", __package__)
    print(json.dumps(attempt_all(family.FAMILY.attacks)))
