"""The kernel zygote: does the work before a Python kernel's first cell once for a template, then forks kernels that are ready.

Runs on the template's Python, beside the zone's sandboxes, and has nothing of theirs (docs/decisions/0014-zygotes.md). It owns the order:
exercise, preload, reset, checks. The fork is drivers/zygote.py's, the first steps of a child are cloister_zygote/birth.py's. It must leave
no trace of the exercise in the children. It must not fork while it has something that children must not share: a second thread, a shared
writable mapping, a foreign descriptor.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # libraries read these variables when they are loaded
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME="/nonexistent", LOGNAME="root", LANG="C.UTF-8")
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import atexit
import faulthandler
import importlib
import linecache
import select
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_OURS = (
    "cloister_zygote.birth",
    "cloister_zygote.hidden_modules",
    "cloister_zygote.libraries",
    "cloister_zygote.preload",
    "cloister_zygote.rehearsal",
    "cloister_zygote.renewal",
    "zygote",
    "zygote_memory",
)
_SMALL_OBJECTS_MIB = 56
"""About what the interpreter has for small objects when all libraries are imported."""
_CELLS = (
    "1 + 1",
    "x = (1 +",
    "def f():\n    return 1 / 0\nf()",
    "undefined_name",
    "!true",
    "from IPython.display import HTML, display\ndisplay(HTML('a'), [1], {'a': 1})",
    "'text'",
)
"""Cells of each kind that needs no library."""


class _Mute:
    """The channel of the exercise: it drops messages."""

    alive = True
    interruptible = False
    interrupted = False
    run_id = 0

    def send(self, message: dict[str, Any]) -> None:
        """Drop it."""


class _Before:
    """The state of the interpreter that the exercise and the preload change, as it was before."""

    def __init__(self) -> None:
        self._filters = list(warnings.filters)
        self._environ = dict(os.environ)
        self._path = list(sys.path)
        self._finders = list(sys.meta_path)

    def restore(self) -> None:
        """Put it back."""
        warnings.resetwarnings()
        warnings.filters[:] = self._filters  # type: ignore[index]  # typeshed knows no assignment to it
        os.environ.clear()
        os.environ.update(self._environ)
        sys.path[:] = self._path
        sys.meta_path[:] = self._finders
        for name in [name for name in linecache.cache if name.startswith("<")]:
            del linecache.cache[name]
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        for module in list(sys.modules.values()):
            if isinstance(module, ModuleType):  # typing.io and others are classes before 3.13
                vars(module).pop("__warningregistry__", None)


def prepare() -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Do everything before the fork. Gives the function that forks (``zygote.serve``) and the one that a child then runs.

    Ends the process, with a message, when it must not fork.
    """
    sys.path[0] = _HERE
    room = _import("zygote_room").make_room(_SMALL_OBJECTS_MIB)
    del sys.modules["zygote_room"]
    driver = _import("main")
    driver.import_package()
    _install_streams()
    before = _Before()
    first = _make_shell()
    for code in _CELLS:
        first.run(code)
    visible = set(sys.modules)
    rehearsal = _import("cloister_zygote.rehearsal")
    rehearsal.rehearse_run(driver.execute, first)
    atexit.unregister(first.atexit_operations)
    type(first).clear_instance()
    birth, hiding, libraries, preload, _, renewal, zygote, memory = (_import(name) for name in _OURS)
    batches = preload.preload(_make_shell)
    libraries.find_blas()
    before.restore()
    for name in ("main", "cloister_zygote", *_OURS):
        sys.modules.pop(name, None)
    shell = _make_shell()
    hidden = hiding.HiddenModules(visible - {"main"}, batches)
    sources = renewal.find_sources()
    rehearsal.rehearse_birth(lambda: renewal.renew(sources, hidden.get), hidden.is_stale)
    memory.settle()
    wrong = memory.faults()
    if wrong:
        sys.exit("The Python zygote must not fork: it has " + ", ".join(wrong))

    def live(socket: Any) -> None:
        channel = birth.complete_birth(socket, shell, lambda: renewal.renew(sources, hidden.get))
        channel.on_renew = lambda: renewal.renew_copy(sources, hidden.get)
        faulthandler.enable(2)
        assert room
        channel.send({"op": "ready"})
        select.select([channel], [], [])
        if hidden.is_stale():  # packages were installed before the first cell
            birth.start_cold(channel, {**os.environ, "CLOISTER_KERNEL_READY": "said"})
        driver.serve(channel, shell)

    return zygote.serve, live


def _import(name: str) -> Any:
    """Import one of our modules; its directory does not stay on the path of cells."""
    sys.path[:0] = [_HERE, os.path.dirname(_HERE)]
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[:2]


def _install_streams() -> None:
    from cloister_kernel.streams import install_streams

    install_streams()


def _make_shell() -> Any:
    from cloister_kernel.formats import install_formats
    from cloister_kernel.shell import Shell, make_shell

    Shell.homeless = True
    shell = make_shell(_Mute())  # type: ignore[arg-type]  # the exercise needs no more of a channel
    install_formats(shell)
    return shell


def main() -> None:
    """Prepare, then fork kernels for ever; a child becomes the kernel."""
    fork, live = prepare()
    live(fork())


if __name__ == "__main__":
    main()
