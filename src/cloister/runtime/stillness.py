"""Whether the processes of one sandbox stand still: for a pause, which lasts, or for the time of a copy.

They stand still also when the supervisor dies. A pause and a copy may overlap; the processes run again when neither
wants them to stand still. An end wins over both. Runs in: supervisor and builds, in worker threads. Needs: root.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from cloister.errors import RuntimeFailedError

__all__ = ["Freezer", "Stillness"]

_FREEZE_TIMEOUT_S = 10.0
_THAW_EVERY_S = 0.05


class Freezer(Protocol):
    """A way to stop processes: :class:`cloister.linux.cgroup.CgroupTree`, or one of the runtime's own. Raises: OSError."""

    def is_frozen(self, name: str, /) -> bool:
        """Whether none of them runs."""

    def is_to_freeze(self, name: str, /) -> bool:
        """Whether they were asked to stand still, and not to go on since."""

    def freeze(self, name: str, timeout_s: float, /) -> None:
        """Stop them until :meth:`thaw`. Raises: DeadlineError (they run on then)."""

    def thaw(self, name: str, /) -> None:
        """Let them go on. Does nothing if they run or have ended."""


class Stillness:
    """Of the group ``name``. Thread-safe."""

    def __init__(self, tree: Freezer, name: str) -> None:
        """A group that an earlier supervisor left frozen counts as paused."""
        self._tree = tree
        self._name = name
        self._lock = threading.Lock()
        """Held while the group freezes: a second one who wants it waits for the outcome."""
        self._copying = threading.Lock()
        self._is_copied = self._is_ending = False
        try:
            self._is_kept = tree.is_to_freeze(name)
        except FileNotFoundError:  # it has no group any more, and is only to be ended
            self._is_kept = False

    @property
    def is_kept(self) -> bool:
        """Whether it is paused."""
        return self._is_kept

    @property
    def is_copied(self) -> bool:
        """Whether it is in a block of :meth:`hold`."""
        return self._is_copied

    def keep(self) -> None:
        """Stand still until :meth:`leave`. Raises: DeadlineError, RuntimeFailedError (it is being ended), OSError; it runs on then."""
        with self._lock:
            self._freeze()
            self._is_kept = True

    def leave(self) -> None:
        """End what :meth:`keep` began. A copy under way ends first. Raises: OSError."""
        with self._lock:
            self._is_kept = False
            if not self._is_copied:
                self._tree.thaw(self._name)

    @contextmanager
    def lift(self) -> Iterator[None]:
        """Let processes that stand still run for the time of the block; they stand still again afterwards.

        For a runtime that has stopped the sandbox's programs in another way, too. Raises: RuntimeFailedError (they do not), as
        :meth:`keep`.
        """
        with self._lock:
            if not (self._is_kept or self._is_copied):
                raise RuntimeFailedError(f"sandbox {self._name} does not stand still")
            self._tree.thaw(self._name)
            try:
                yield
            finally:
                self._freeze()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Stand still for the time of the block, for one copy at a time. Raises: as :meth:`keep`."""
        with self._copying:
            with self._lock:
                self._freeze()
                self._is_copied = True
            try:
                yield
            finally:
                with self._lock:
                    self._is_copied = False
                    if not self._is_kept:
                        self._tree.thaw(self._name)

    def end(self, has_ended: Callable[[float], bool], timeout_s: float) -> bool:
        """Let processes that were sent SIGKILL die: v1 kills a frozen process only when it is thawed. Raises: OSError.

        ``has_ended`` waits for so many seconds; the answer is whether they ended in time. Another thread that freezes them meanwhile
        does not keep them alive.
        """
        self._is_ending = True
        deadline = time.monotonic() + timeout_s
        while True:
            self._tree.thaw(self._name)
            if has_ended(_THAW_EVERY_S):
                return True
            if time.monotonic() > deadline:
                return False

    def _freeze(self) -> None:
        if not ((self._is_kept or self._is_copied) and self._tree.is_frozen(self._name)):
            try:
                self._tree.freeze(self._name, _FREEZE_TIMEOUT_S)
            except BaseException:
                self._is_kept = False  # it was thawed
                raise
        if self._is_ending:
            self._tree.thaw(self._name)
            raise RuntimeFailedError(f"sandbox {self._name} is being ended")
