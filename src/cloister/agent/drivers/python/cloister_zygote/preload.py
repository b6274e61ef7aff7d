"""Imports the libraries of typical cells in a Python zygote before it forks.

A temporary child runs typical cells and reports after each which modules it imported: so the zygote learns them. The zygote itself runs no
cell that uses a library, so no library has the state of a run: no figure, no open backend, no advanced counter. It must not print, and
leaves no child process and no descriptor. On a slow host it stops early, and children import the rest themselves.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["preload"]

_TYPICAL = (
    "import asyncio\nawait asyncio.sleep(0)",
    "%time 1",
    "import collections, datetime, itertools, json, math, os, random, re, subprocess, tempfile, uuid",
    "import numpy as np\nnp.random.default_rng(1).normal(size=3) @ np.ones(3)",
    "import pandas as pd, io\nframe = pd.read_csv(io.StringIO('a,b\\n1,2\\n'))\nframe.groupby('a').sum()",
    "frame.describe()",
    "frame.to_json(), frame.to_csv(), str(frame)",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2], label='l'); plt.title('t'); plt.legend(); plt.tight_layout()",
    "plt.bar(['a', 'b'], [1, 2]); plt.show()",
    "frame.plot()",
)
_ACTS_WHEN_IMPORTED = "matplotlib_inline"
"""A package that changes the shell when it is imported: children import it themselves."""
_LEARN_WITHIN_S = 30.0
_IMPORT_WITHIN_S = 60.0
"""Bounds for both together. The supervisor ends a zygote after twice that (zygotes.py); one that imports less starts faster."""


def preload(make_shell: Callable[[], Any]) -> dict[str, tuple[list[str], list[Any]]]:
    """Import the modules of typical cells; skip a module that cannot be imported.

    Gives for each import the modules and the warning filters that it added. The child completes a library's dependencies first, so each is
    imported before the library, by itself.
    """
    batches = {}
    until = time.monotonic() + _IMPORT_WITHIN_S
    with _matplotlib_directory():
        learned = _learn(make_shell)
        for name in [name for name in learned if "." not in name] + [name for name in learned if "." in name]:
            if time.monotonic() > until:
                break
            modules, filters = set(sys.modules), list(warnings.filters)
            with contextlib.suppress(Exception):  # an import of any library may raise anything
                importlib.import_module(name)
            batches[name] = [one for one in sys.modules if one not in modules], [one for one in warnings.filters if one not in filters]
        _find_fonts()
    return batches


def _find_fonts() -> None:
    """Let matplotlib search its default fonts now: it caches them by size."""
    fonts = sys.modules.get("matplotlib.font_manager")
    for size in ("medium", 10.0, 12.0):
        with contextlib.suppress(Exception):  # this matplotlib lacks these names
            fonts.fontManager._find_fonts_by_props(fonts.FontProperties(size=size))  # type: ignore[union-attr]  # it is loaded


def _learn(make_shell: Callable[[], Any]) -> list[str]:
    """The modules that typical cells import, in order, from a child that runs as many cells as it has time for."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _run_typical(make_shell(), writing)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        lines = answer.read().split("\n")[:-1]  # without an unfinished one
    os.waitpid(pid, 0)
    return [name for line in lines for name in json.loads(line) if name.partition(".")[0] != _ACTS_WHEN_IMPORTED]


def _run_typical(shell: Any, writing: int) -> None:
    import signal

    signal.setitimer(signal.ITIMER_REAL, _LEARN_WITHIN_S)  # SIGALRM ends the process
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # a magic prints
    os.close(nowhere)
    known = set(sys.modules)
    with open(writing, "w", encoding="utf-8") as answer:
        for code in _TYPICAL:
            shell.run(code)
            found = [name for name in sys.modules if name not in known]
            known.update(found)
            answer.write(json.dumps(found) + "\n")
            answer.flush()


@contextlib.contextmanager
def _matplotlib_directory() -> Iterator[None]:
    """A directory with a list of fonts for matplotlib that an earlier run in the template made: making one takes seconds."""
    place = next((one for one in ("/tmp", "/dev/shm", "/run") if os.access(one, os.W_OK)), None)  # a place, not a name
    directory = tempfile.mkdtemp(prefix="zygote-", dir=place) if place else None
    try:
        if directory is not None:
            for path in glob.glob("/home/*/.cache/matplotlib/fontlist-*.json") + glob.glob("/root/.cache/matplotlib/fontlist-*.json"):
                shutil.copy(path, directory)
            os.environ["MPLCONFIGDIR"] = directory
        yield
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
