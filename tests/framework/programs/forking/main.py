"""Runs the drivers' Python zygote with the ``zygote`` of this directory. Its argument is the directory of the drivers."""

import importlib
import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent)
importlib.import_module("zygote")  # python/zygote_main.py finds this one

drivers = sys.argv[1]
sys.argv = [f"{drivers}/python/zygote_main.py"]
sys.path[0] = f"{drivers}/python"
runpy.run_path(sys.argv[0], run_name="__main__")
