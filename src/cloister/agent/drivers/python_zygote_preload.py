"""The libraries that cells begin with, imported by a Python zygote before it forks.

Which modules those are is learned: a throw-away child runs typical cells and says what they imported. The zygote itself runs no cell that
uses a library, so no library has state of a run: no figure, no open backend, no counter that has counted. It must not print, and leaves
no child process and no descriptor.
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
"""A package that changes the shell when it is imported: left to the children."""
_LEARN_WITHIN_S = 120


def preload(make_shell: Callable[[], Any]) -> dict[str, tuple[list[str], list[Any]]]:
    """Import what typical cells import; a module that cannot be imported is left to its users.

    Gives for each import the modules and the warning filters that it brought. The modules are learned in the order in which they were
    complete, so what a library needs is imported before it, by itself.
    """
    batches = {}
    with _matplotlib_directory():
        learned = _learn(make_shell)
        for name in [name for name in learned if "." not in name] + [name for name in learned if "." in name]:
            modules, filters = set(sys.modules), list(warnings.filters)
            with contextlib.suppress(Exception):  # any library's import
                importlib.import_module(name)
            batches[name] = [one for one in sys.modules if one not in modules], [one for one in warnings.filters if one not in filters]
        _find_fonts()
    return batches


def _find_fonts() -> None:
    """Let matplotlib look for its default fonts now: it remembers which they are, by size."""
    fonts = sys.modules.get("matplotlib.font_manager")
    for size in ("medium", 10.0, 12.0):
        with contextlib.suppress(Exception):  # a matplotlib without these names
            fonts.fontManager._find_fonts_by_props(fonts.FontProperties(size=size))  # type: ignore[union-attr]


def _learn(make_shell: Callable[[], Any]) -> list[str]:
    """The modules that typical cells import, in their order, by a child that runs them."""
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
        text = answer.read()
    os.waitpid(pid, 0)
    return [name for name in json.loads(text or "[]") if name.partition(".")[0] != _ACTS_WHEN_IMPORTED]


def _run_typical(shell: Any, writing: int) -> None:
    import signal  # noqa: PLC0415

    signal.alarm(_LEARN_WITHIN_S)
    known = set(sys.modules)
    for code in _TYPICAL:
        shell.run(code)
    with open(writing, "w", encoding="utf-8") as answer:
        json.dump([name for name in sys.modules if name not in known], answer)


@contextlib.contextmanager
def _matplotlib_directory() -> Iterator[None]:
    """A directory in which matplotlib finds a list of fonts that somebody in the template has made: making one takes seconds."""
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
