"""Tells a running build to end: a client cancelled it, its time is over, or the server stops.

Invariant: a registered ``stop`` is never called after its context was left. So it cannot end a later sandbox of the build.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import structlog

from cloister.errors import BuildError
from cloister.template.interfaces import Cancellation

__all__ = ["BuildCancellation"]

_log = structlog.get_logger("cloister.node.builds")


class _StopCallback:
    """One registered ``stop``, called at most once and only while its context is open."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop: Callable[[], None] | None = stop
        self._lock = threading.Lock()

    def call(self) -> None:
        with self._lock:
            stop, self._stop = self._stop, None
            if stop is not None:
                try:
                    stop()
                except Exception:  # noqa: BLE001 - border: the other callbacks must run too; the build's own thread meets the cause
                    _log.exception("build.stop_failed")

    def leave(self) -> None:
        with self._lock:  # waits for a call under way
            self._stop = None


class BuildCancellation(Cancellation):
    """See :class:`Cancellation`. Any thread may call :meth:`end`; the first call counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: str | None = None
        self._calls: set[_StopCallback] = set()

    @property
    def why(self) -> str | None:
        """Why the build must end, in words for its log. None: it need not."""
        return self._why

    def end(self, why: str) -> None:
        """Tell the build to end. Blocks until the operation under way is stopped."""
        with self._lock:
            if self._why is not None:
                return
            self._why = why
            calls = tuple(self._calls)
        for one in calls:
            one.call()

    def check(self) -> None:
        """See :class:`Cancellation`."""
        if self._why is not None:
            raise BuildError(self._why)

    @contextlib.contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """See :class:`Cancellation`."""
        one = _StopCallback(stop)
        with self._lock:
            self._calls.add(one)
            has_ended = self._why is not None
        try:
            if has_ended:
                one.call()
            yield
        finally:
            with self._lock:
                self._calls.discard(one)
            one.leave()
