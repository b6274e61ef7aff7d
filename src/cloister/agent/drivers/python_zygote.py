"""The kernel zygote: does once what every Python kernel of a template does before its first cell, then forks kernels that are ready.

Runs on the template's Python, beside the zone's sandboxes, with nothing of theirs (docs/decisions/0014-zygotes.md). It owns the order:
exercise, preload, reset, checks; the fork is zygote.py's, what a child does first python_zygote_birth.py's. It must leave no trace of the
exercise in the children, and must not fork while it has what children must not share: a second thread, a shared writable mapping, a foreign
descriptor.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # what the libraries read when they are loaded
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME="/nonexistent", LANG="C.UTF-8", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

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
    "python_zygote_birth",
    "python_zygote_fresh",
    "python_zygote_libraries",
    "python_zygote_preload",
    "python_zygote_stash",
    "zygote",
    "zygote_memory",
)
_CELLS = (
    "1 + 1",
    "x = (1 +",
    "def f():\n    return 1 / 0\nf()",
    "undefined_name",
    "!true",
    "from IPython.display import HTML, display\ndisplay(HTML('a'), [1], {'a': 1})",
    "'text'",
)
"""One of each kind that needs no library."""


class _Mute:
    """The channel of the exercise: messages go nowhere."""

    alive = True
    interruptible = False
    interrupted = False
    run_id = 0

    def send(self, message: dict[str, Any]) -> None:
        """Drop it."""


class _Before:
    """What the exercise and the preload change in the interpreter, as it was before."""

    def __init__(self) -> None:
        self._filters = list(warnings.filters)
        self._environ = dict(os.environ)
        self._path = list(sys.path)
        self._finders = list(sys.meta_path)

    def restore(self) -> None:
        """Put it back."""
        warnings.resetwarnings()
        warnings.filters[:] = self._filters  # type: ignore[index]
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
    """Everything before the fork. Gives what forks (``zygote.serve``) and what a child then does.

    Ends the process, with a message, when it must not fork.
    """
    sys.path[0] = _HERE
    import python  # noqa: PLC0415

    python.import_siblings()
    _install_streams()
    before = _Before()
    first = _make_shell()
    for code in _CELLS:
        first.run(code)
    atexit.unregister(first.atexit_operations)
    type(first).clear_instance()
    visible = set(sys.modules)
    birth, fresh, libraries, preload, stashes, zygote, memory = (_import(name) for name in _OURS)
    batches = preload.preload(_make_shell)
    libraries.find_blas()
    before.restore()
    for name in ("python", *_OURS):
        sys.modules.pop(name, None)
    shell = _make_shell()
    stash = stashes.Stash(visible - {"python"}, batches)
    sources = fresh.find_sources()
    memory.settle()
    wrong = memory.faults()
    if wrong:
        sys.exit("The Python zygote must not fork: it has " + ", ".join(wrong))

    def live(socket: Any) -> None:
        channel = birth.be_born(socket, shell, lambda: fresh.renew(sources, stash.get))
        faulthandler.enable(2)
        channel.send({"op": "ready"})
        select.select([channel], [], [])
        if stash.is_stale():  # packages were installed before the first cell
            birth.start_cold(channel, {**os.environ, "CLOISTER_KERNEL_READY": "said"})
        python.serve(channel, shell)

    return zygote.serve, live


def _import(name: str) -> Any:
    """One of the modules beside this one, which cells cannot import by accident."""
    sys.path.insert(0, _HERE)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(_HERE)


def _install_streams() -> None:
    from python_channel import install_streams  # noqa: PLC0415

    install_streams()


def _make_shell() -> Any:
    from python_formats import install_formats  # noqa: PLC0415
    from python_shell import Shell, make_shell  # noqa: PLC0415

    Shell.homeless = True
    shell = make_shell(_Mute())  # type: ignore[arg-type]  # as far as the exercise goes
    install_formats(shell)
    return shell


def main() -> None:
    """Prepare, then fork kernels for ever; in a child, be the kernel."""
    fork, live = prepare()
    live(fork())


if __name__ == "__main__":
    main()
