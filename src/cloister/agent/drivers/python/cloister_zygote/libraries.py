"""State that libraries read at their import: read again when a forked kernel's code imports a library that was imported ahead.

A zygote's environment and HOME are not the sandbox's. They affect OpenBLAS's number of threads, and matplotlib's directories, settings and
backend.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["after_import", "find_blas", "may_be_given"]

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
_SETTERS = tuple(f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_"))
_blas: list[Any] = []


def find_blas() -> None:
    """Find the loaded OpenBLAS libraries, and the function of each that sets its number of threads."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.split(None, 5)[5].strip() for line in maps if "openblas" in line}
    for path in sorted(paths):
        library = ctypes.CDLL(path)
        _blas.extend(getattr(library, name) for name in _SETTERS if hasattr(library, name))


def may_be_given(modules: Mapping[str, Any]) -> bool:
    """Whether the modules have the state that an import would give them now; false if matplotlib would read other settings."""
    matplotlib = modules.get("matplotlib")
    if matplotlib is None:
        return True
    _forget_directories(matplotlib)
    ahead = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "matplotlibrc")
    return bool(os.path.realpath(matplotlib.matplotlib_fname()) == os.path.realpath(ahead))


def after_import(modules: Mapping[str, Any]) -> None:
    """Do for these modules what their import would do in this process."""
    if "numpy" in modules:
        _set_threads()
    matplotlib = modules.get("matplotlib")
    backend = os.environ.get("MPLBACKEND")
    if matplotlib is not None and backend:
        matplotlib.rcParams["backend"] = backend


def _set_threads() -> None:
    """The number of threads that OpenBLAS chooses when it is loaded."""
    count = len(os.sched_getaffinity(0))
    for name in _THREAD_VARIABLES:
        text = os.environ.get(name, "").strip()
        if text.isdigit() and int(text) > 0:
            count = min(count, int(text))
            break
    if count > 1:
        for set_threads in _blas:
            set_threads(count)


def _forget_directories(matplotlib: Any) -> None:
    """Matplotlib looks up its directories once: make it do so again."""
    for name, label in (("get_configdir", "CONFIGDIR=%s"), ("get_cachedir", "CACHEDIR=%s")):
        function: Any = getattr(matplotlib, name, None)
        if hasattr(function, "__wrapped__") and hasattr(matplotlib, "_logged_cached"):
            setattr(matplotlib, name, matplotlib._logged_cached(label)(function.__wrapped__))
