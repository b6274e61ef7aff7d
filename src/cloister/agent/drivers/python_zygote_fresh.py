"""What must differ between kernels forked from one zygote: random generators, ids, names and caches of what the process is.

:data:`RENEWALS` is the table: a module, and how what it keeps is renewed in a forked kernel. What takes its randomness from the operating
system at each call (``os.urandom``, ``secrets``, ``random.SystemRandom``, ``uuid.uuid4``) needs no row. Invariant: a generator that
exists when :func:`find_sources` runs is renewed wherever it is kept, a module's, a class's or a closure's.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["RENEWALS", "find_sources", "renew"]


def _random(module: Any) -> None:
    module.seed()


def _tempfile(module: Any) -> None:
    module._name_sequence = None  # its generator goes by the pid, which a process of another sandbox may have too
    module.tempdir = None


def _uuid(module: Any) -> None:
    for name in vars(module):
        if name in ("_node", "_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7", "_last_counter_v7"):
            setattr(module, name, None if not name.endswith("counter_v7") else 0)


def _platform(module: Any) -> None:
    module._uname_cache = None
    module._platform_cache.clear()


def _authkey(module: Any) -> None:
    config = module._current_process._config
    config["authkey"] = module.AuthenticationString(os.urandom(32))
    module._current_process._identity = ()


def _ssl(module: Any) -> None:
    module.RAND_add(os.urandom(32), 32.0)  # OpenSSL knows a fork by the pid alone


def _logging(module: Any) -> None:
    module._startTime = time.time_ns() if isinstance(module._startTime, int) else time.time()


def _sysconfig(module: Any) -> None:
    module._CONFIG_VARS = None  # HOME is in it
    module._CONFIG_VARS_INITIALIZED = False


def _mimetypes(module: Any) -> None:
    module.inited = False
    module._db = None


def _urllib(module: Any) -> None:
    module._localhost = module._thishost = module._opener = None
    module.FileHandler.names = None


RENEWALS: dict[str, Callable[[Any], None]] = {
    "random": _random,
    "tempfile": _tempfile,
    "uuid": _uuid,
    "platform": _platform,
    "multiprocessing.process": _authkey,
    "_ssl": _ssl,
    "logging": _logging,
    "sysconfig": _sysconfig,
    "mimetypes": _mimetypes,
    "urllib.request": _urllib,
}
"""Module -> how it is renewed. Every instance of the kinds of :func:`find_sources` besides."""


def find_sources() -> list[Callable[[], None]]:
    """Every generator object of the process, as what renews it."""
    if "_ssl" in sys.modules:
        sys.modules["_ssl"].RAND_bytes(1)  # made here, OpenSSL's tables are shared; the children seed it anew
    found: list[Callable[[], None]] = []
    for one in gc.get_objects():
        kinds = {(kind.__module__, kind.__name__) for kind in type(one).__mro__}
        if ("random", "Random") in kinds and ("random", "SystemRandom") not in kinds:
            found.append(one.seed)
        elif ("tempfile", "_RandomNameSequence") in kinds:
            found.append(_Names(one))
        elif ("numpy.random.bit_generator", "BitGenerator") in kinds:
            found.append(_Bits(one))
        elif ("numpy.random.mtrand", "RandomState") in kinds:
            found.append(_Legacy(one))
    found.sort(key=lambda renewal: isinstance(renewal, _Legacy))  # after the bits that it draws from
    return found


class _Names:
    def __init__(self, names: Any) -> None:
        self._names = names

    def __call__(self) -> None:
        self._names._rng_pid = None


class _Bits:
    """A bit generator of numpy: its state, and the seed sequence that ``spawn`` derives children from."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __call__(self) -> None:
        fresh = type(self._generator)()
        try:
            self._generator.__setstate__((fresh.state, fresh.seed_seq))
        except (AttributeError, TypeError, ValueError):  # an older numpy
            self._generator.state = fresh.state


class _Legacy:
    """The rest of numpy's RandomState: a second Gaussian may be kept from the last draw."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __call__(self) -> None:
        state = self._generator.get_state(legacy=False)
        state["has_gauss"], state["gauss"] = 0, 0.0
        self._generator.set_state(state)


def renew(sources: list[Callable[[], None]], stashed: Callable[[str], Any]) -> None:
    """Renew everything; the first thing that a forked kernel does, before any code of the sandbox can draw."""
    for source in sources:
        source()
    for name, renewal in RENEWALS.items():
        module = sys.modules.get(name) or stashed(name)
        if module is not None:
            renewal(module)
