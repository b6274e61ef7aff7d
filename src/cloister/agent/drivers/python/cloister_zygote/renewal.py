"""Renews the state that must differ between kernels forked from one zygote, or between copies of a sandbox: random generators, ids, names
and cached facts.

:data:`RENEWALS` is the table: for each module, the function that renews its state in a forked kernel. Sources that ask the operating
system at each call (``os.urandom``, ``secrets``, ``random.SystemRandom``, ``uuid.uuid4``) need no row. Invariant: a generator that exists
when :func:`find_sources` runs is renewed, whether a module, a class or a closure holds it. In a copy (:func:`renew_copy`) the user's own
generators keep the seeds that their code chose, as far as that can be seen.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["COPY_RENEWALS", "RENEWALS", "find_sources", "renew", "renew_copy"]


def _random(module: Any) -> None:
    module.seed()


def _tempfile(module: Any) -> None:
    module._name_sequence = None  # its generator tells processes apart by the pid, which a process of another sandbox may have, too
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
    module.RAND_add(os.urandom(32), 32.0)  # OpenSSL notices a fork only by the pid


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
"""Module to the function that renews it. Instances of the kinds in :func:`find_sources` are renewed one by one."""


def _tempfile_names(module: Any) -> None:
    module._name_sequence = None


COPY_RENEWALS: dict[str, Callable[[Any], None]] = {
    "random": _random,
    "tempfile": _tempfile_names,
    "uuid": _uuid,
    "platform": _platform,
    "_ssl": _ssl,
}
"""The same for a kernel that a user has worked in. Caches and keys that live objects and processes rely on stay."""
_CHOSEN_BITS = 64
"""A seed of numpy with fewer bits was chosen; its own seeds have 128."""


def find_sources() -> list[Callable[[], None]]:
    """A function for each generator object of the process, which renews it."""
    if "_ssl" in sys.modules:
        sys.modules["_ssl"].RAND_bytes(1)  # OpenSSL makes its tables now, so that children share them; each child seeds it again
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
    found.sort(key=lambda renewal: isinstance(renewal, _Legacy))  # after the bit generator that it draws from
    return found


class _Names:
    def __init__(self, names: Any) -> None:
        self._names = names

    def __call__(self) -> None:
        self._names._rng_pid = None


class _Bits:
    """A bit generator of numpy: its state, and the seed sequence from which ``spawn`` derives children."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __call__(self) -> None:
        fresh = type(self._generator)()
        try:
            self._generator.__setstate__((fresh.state, fresh.seed_seq))
        except (AttributeError, TypeError, ValueError):  # an older numpy
            self._generator.state = fresh.state


class _Legacy:
    """The rest of numpy's RandomState: it may keep a second Gaussian from the last draw."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __call__(self) -> None:
        state = self._generator.get_state(legacy=False)
        state["has_gauss"], state["gauss"] = 0, 0.0
        self._generator.set_state(state)


def renew(sources: list[Callable[[], None]], hidden: Callable[[str], Any]) -> None:
    """Renew everything. A forked kernel does this before any code of the sandbox can draw a number."""
    for source in sources:
        source()
    for name, renewal in RENEWALS.items():
        module = sys.modules.get(name) or hidden(name)
        if module is not None:
            renewal(module)


def renew_copy(sources: list[Callable[[], None]], hidden: Callable[[str], Any]) -> None:
    """Renew everything in a copy of a kernel. ``sources`` are those of :func:`find_sources` before the fork, if it was forked."""
    for source in (*sources, *_unchosen_sources(hidden)):
        source()
    for name, renewal in COPY_RENEWALS.items():
        module = sys.modules.get(name) or hidden(name)
        if module is not None:
            renewal(module)


def _unchosen_sources(hidden: Callable[[str], Any]) -> list[Callable[[], None]]:
    """A function for numpy's global generator, and for each generator of numpy that seeded itself.

    Instances of ``random.Random`` and ``numpy.random.RandomState`` do not tell how they were seeded, and stay as they are.
    """
    mtrand = sys.modules.get("numpy.random.mtrand") or hidden("numpy.random.mtrand")
    if mtrand is None:
        return []
    generators, legacy = [], [mtrand._rand]
    base = mtrand._rand._bit_generator.__class__.__mro__[-2]  # BitGenerator
    kinds: dict[type, int] = {}
    for one in gc.get_objects():
        kind = type(one)
        if kind not in kinds:
            kinds[kind] = 1 if issubclass(kind, base) else 2 if issubclass(kind, type(mtrand._rand)) else 0
        if kinds[kind] == 1:
            generators.append(one)
        elif kinds[kind] == 2 and one is not mtrand._rand:
            legacy.append(one)
    kept = {id(one._bit_generator) for one in legacy[1:]}
    unchosen = [one for one in generators if id(one) not in kept and _is_unchosen(one)]
    return [*map(_Bits, [mtrand._rand._bit_generator, *unchosen]), _Legacy(mtrand._rand)]


def _is_unchosen(generator: Any) -> bool:
    """Whether a bit generator of numpy took its seed from the system."""
    entropy = getattr(getattr(generator, "seed_seq", getattr(generator, "_seed_seq", None)), "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > _CHOSEN_BITS
