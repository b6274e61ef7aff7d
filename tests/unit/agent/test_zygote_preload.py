"""The imports of a Python zygote on a host that is too slow for all of them, with the test's own shell."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest

from cloister.runtime.namespace.zygotes import _READY_TIMEOUT_S

_DRIVERS = str(resources.files("cloister") / "agent" / "drivers" / "python")
_PRELOAD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from cloister_zygote import preload
bounds = preload._LEARN_WITHIN_S, preload._IMPORT_WITHIN_S
vars(preload).update(json.loads(sys.argv[2]))

class Shell:
    def run(self, code):
        exec(code)

print(json.dumps([list(preload.preload(Shell)), bounds]))
"""


def preloaded(**changes: object) -> Any:
    """The modules that were imported ahead with these constants, and the usual bounds."""
    argv = [sys.executable, "-I", "-S", "-c", _PRELOAD, _DRIVERS, json.dumps(changes)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.parametrize(
    ("cells", "bounds", "names"),
    [
        (["import colorsys", "import wave"], {}, ["colorsys", "wave"]),
        (["import colorsys", "time.sleep(600)", "import wave"], {"_LEARN_WITHIN_S": 3.0}, ["colorsys"]),
        (["time.sleep(600)"], {"_LEARN_WITHIN_S": 0.1}, []),
        (["import colorsys"], {"_IMPORT_WITHIN_S": -1.0}, []),
    ],
    ids=["all", "some learned", "none learned", "none imported"],
)
def test_slow_host_has_a_zygote_that_knows_less(cells: list[str], bounds: dict[str, float], names: list[str]) -> None:
    """Learning and importing that take too long end early, with what is known by then, and the zygote goes on."""
    found, _ = preloaded(_TYPICAL=cells, **bounds)
    assert [name for name in found if name in ("colorsys", "wave")] == names


def test_supervisor_waits_longer_than_a_zygote_learns() -> None:
    """A zygote ends its learning and importing well before it would be given up."""
    _, (learn_s, import_s) = preloaded(_TYPICAL=[])
    assert learn_s <= import_s / 2
    assert import_s <= _READY_TIMEOUT_S / 2
