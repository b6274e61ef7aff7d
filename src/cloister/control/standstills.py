"""The sandboxes whose disks are being captured, by a snapshot or a fork: one capture at a time of each sandbox.

A kill or a pause of a sandbox waits for its capture; another capture is refused. Owns no row and makes no call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cloister.errors import ConflictError

__all__ = ["Standstills"]


class Standstills:
    """The captures of this process. Event loop only."""

    def __init__(self) -> None:
        self._captures: dict[str, asyncio.Event] = {}

    @contextmanager
    def one(self, sandbox_id: str) -> Iterator[None]:
        """The sandbox is captured in the block. Raises: ConflictError: another capture of it is under way."""
        if sandbox_id in self._captures:
            raise ConflictError(f"a snapshot or a fork of sandbox {sandbox_id} is under way", hint="try again when it is done")
        done = self._captures[sandbox_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._captures[sandbox_id]
            done.set()

    async def wait(self, sandbox_id: str) -> None:
        """Return when no capture of the sandbox is under way."""
        while (done := self._captures.get(sandbox_id)) is not None:
            await done.wait()
