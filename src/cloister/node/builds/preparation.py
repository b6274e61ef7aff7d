"""Makes the first sandboxes of a new template ahead. Builds ask from their threads; the work runs on the event loop.

A start command may take its time, above all the ``CMD`` of a Dockerfile, which the SDKs give twenty seconds. So the sandbox made ahead
starts while the trial of the same command runs, and the build need not wait for one after the other.
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

__all__ = ["BuildPreparation"]

_TIMEOUT_S = 180.0


class BuildPreparation:
    """To be constructed on the event loop; its methods are for other threads."""

    def __init__(
        self,
        make_ahead: Callable[[str], Coroutine[Any, Any, None]],
        end_made_ahead: Callable[[str], None],
        with_unrecorded: Callable[[Template], AbstractContextManager[None]],
    ) -> None:
        """``make_ahead`` and ``end_made_ahead`` take build ids. While ``with_unrecorded`` is open, sandboxes can be made of a template
        that is not recorded yet.
        """
        self._loop = asyncio.get_running_loop()
        self._make_ahead = make_ahead
        self._end_made_ahead = end_made_ahead
        self._with_unrecorded = with_unrecorded

    @contextlib.contextmanager
    def during_trial(self, template: Template) -> Iterator[None]:
        """Begin the preparation while the trial runs in the block; :meth:`prepare` finishes it. A failed trial undoes it."""
        with self._with_unrecorded(template):
            making = self._begin(template.build_id)
            try:
                yield
            except BaseException:
                making.cancel()
                self.discard(template.build_id)
                raise

    def prepare(self, template: Template, cancellation: Cancellation) -> None:
        """Make the first creations quick. Returns early when the build is cancelled. Raises: CloisterError, TimeoutError."""
        making = self._begin(template.build_id)

        def stop() -> None:
            making.cancel()

        with cancellation.calling(stop), contextlib.suppress(concurrent.futures.CancelledError):
            making.result(_TIMEOUT_S)

    def discard(self, build_id: str) -> None:
        """End the sandboxes that were made ahead for the build."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its sandboxes with it
            self._loop.call_soon_threadsafe(self._end_made_ahead, build_id)

    def _begin(self, build_id: str) -> concurrent.futures.Future[None]:
        return asyncio.run_coroutine_threadsafe(self._make_ahead(build_id), self._loop)
