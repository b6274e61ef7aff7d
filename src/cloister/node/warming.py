"""The first sandboxes of a build, as builds ask for them from their threads: the event loop's side is the supervisor's.

What a template starts may take its time, most of all a Dockerfile's ``CMD``, which the SDKs give twenty seconds: so the sandbox that is
made ahead starts while the trial of the same command runs, and the build need not wait for one after the other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any

from cloister.model.template import Template
from cloister.template.interfaces import Cancellation

__all__ = ["Warming"]

_TIMEOUT_S = 180.0


class Warming:
    """Made on the event loop that it speaks to; its methods are for other threads."""

    def __init__(
        self,
        warm: Callable[[str], Coroutine[Any, Any, None]],
        end_made_ahead: Callable[[str], None],
        lending: Callable[[Template], AbstractContextManager[None]],
    ) -> None:
        """``warm`` and ``end_made_ahead`` take build ids; ``lending`` makes a build known that is not kept yet."""
        self._loop = asyncio.get_running_loop()
        self._warm = warm
        self._end_made_ahead = end_made_ahead
        self._lending = lending

    @contextlib.contextmanager
    def ahead(self, template: Template) -> Iterator[None]:
        """While its trial runs in the block, begin what :meth:`prepare` is to finish; a trial that fails leaves nothing of it."""
        with self._lending(template):
            warming = self._begin(template.build_id)
            try:
                yield
            except BaseException:
                warming.cancel()
                self.cool(template.build_id)
                raise

    def prepare(self, template: Template, cancellation: Cancellation) -> None:
        """Make the first creations quick; returns early when the cancellation comes. Raises: CloisterError, TimeoutError."""
        warming = self._begin(template.build_id)

        def stop() -> None:
            warming.cancel()

        with cancellation.calling(stop), contextlib.suppress(concurrent.futures.CancelledError):
            warming.result(_TIMEOUT_S)

    def cool(self, build_id: str) -> None:
        """The build is dropped: keep nothing ready of it."""
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is what it knew
            self._loop.call_soon_threadsafe(self._end_made_ahead, build_id)

    def _begin(self, build_id: str) -> concurrent.futures.Future[None]:
        return asyncio.run_coroutine_threadsafe(self._warm(build_id), self._loop)
