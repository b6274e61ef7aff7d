"""Entry point of the agent's zygote (docs/decisions/0014-zygotes.md): started as main.py is, by the supervisor, one for each zone.

The module that forks is the drivers', since the kernels' zygotes have it too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cloister.agent import main as agent
from cloister.agent.zygote import run

if __name__ == "__main__":
    sys.path.insert(0, str(agent.drivers_directory()))
    serve = importlib.import_module("zygote").serve
    del sys.path[0]
    run(serve, agent.new_launcher(), agent.main)
