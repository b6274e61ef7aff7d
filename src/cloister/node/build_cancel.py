"""How a running build is told to end: because somebody cancelled it, because its time is over, or because the server stops.

Invariant: a ``stop`` that was registered is never called once its context was left, so that it cannot hit what took its sandbox's place.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import structlog

from cloister.errors import BuildError

__all__ = ["BuildCancellation"]

_log = structlog.get_logger("cloister.node.builds")


class _Call:
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
                except Exception:  # noqa: BLE001 - border: the others must be called, and the build's own thread sees what is the matter
                    _log.exception("build.stop_failed")

    def leave(self) -> None:
        with self._lock:  # a call under way is waited for
            self._stop = None


class BuildCancellation:
    """A :class:`~cloister.template.interfaces.Cancellation`: ``end`` it from any thread, once; later ends change nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: str | None = None
        self._calls: set[_Call] = set()

    @property
    def why(self) -> str | None:
        """Why the build is to end, in words for its log; None while it is not."""
        return self._why

    def end(self, why: str) -> None:
        """Tell the build to end. Blocking: what it was doing is stopped when this returns."""
        with self._lock:
            if self._why is not None:
                return
            self._why = why
            calls = tuple(self._calls)
        for one in calls:
            one.call()

    def check(self) -> None:
        """See :class:`~cloister.template.interfaces.Cancellation`."""
        if self._why is not None:
            raise BuildError(self._why)

    @contextlib.contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """See :class:`~cloister.template.interfaces.Cancellation`."""
        one = _Call(stop)
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
