"""Wakes paused sandboxes for requests: one start for all requests of a sandbox, and a bounded number of attempts.

Owns the bounds: requests that arrive during a start join it, a request waits a bounded time, and a start that failed is not repeated for a
second, whatever the number of requests. The caller has checked the request's tokens.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from cloister.errors import CloisterError, ConflictError, InternalError, SandboxNotFoundError, from_code
from cloister.proxy.routes import Waker

__all__ = ["WAKE_WAIT_S", "Wakes"]

_log = structlog.get_logger("cloister.proxy")
WAKE_WAIT_S = 60.0
"""How long a request waits until its sandbox runs."""
_CALMING_S = 1.0
"""How long the error of a failed start is the answer to further requests."""
_MAX_FAULTS = 1024


class _NoWaker:
    """Wakes none, until the control plane is there."""

    async def wake(self, sandbox_id: str) -> None:
        """Raises: SandboxNotFoundError."""
        raise SandboxNotFoundError(f"sandbox {sandbox_id} is paused, and this server wakes none")


class Wakes:
    """The starts under way, by sandbox."""

    def __init__(self, *, wait_s: float = WAKE_WAIT_S, calming_s: float = _CALMING_S) -> None:
        self.waker: Waker = _NoWaker()
        """Resumes sandboxes; the control plane sets it."""
        self._wait_s = wait_s
        self._calming_s = calming_s
        self._starts: dict[str, asyncio.Task[CloisterError | None]] = {}
        self._faults: dict[str, tuple[float, CloisterError]] = {}

    async def wake(self, sandbox_id: str) -> None:
        """Return when the sandbox runs. A caller that is cancelled or gives up leaves the start to the others.

        Raises: CloisterError: of the start; ConflictError if it takes too long.
        """
        if (fault := self._recent_fault(sandbox_id)) is None:
            if (start := self._starts.get(sandbox_id)) is None:
                start = self._starts[sandbox_id] = asyncio.create_task(self._start(sandbox_id))
                start.add_done_callback(lambda _: self._starts.pop(sandbox_id, None))
            done, _ = await asyncio.wait([start], timeout=self._wait_s)
            if not done:
                raise ConflictError(f"the sandbox did not run again within {self._wait_s:g} s", hint="try again")
            fault = start.result()
        if fault is not None:
            raise from_code(fault.code, fault.message, fault.hint)  # a new one, as several requests may raise it

    async def close(self) -> None:
        """Stop waiting for starts."""
        starts = tuple(self._starts.values())
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)

    async def _start(self, sandbox_id: str) -> CloisterError | None:
        began = time.monotonic()
        fault: CloisterError
        try:
            await self.waker.wake(sandbox_id)
        except CloisterError as error:
            fault = error
            _log.warning("sandbox.not_woken", sandbox_id=sandbox_id, code=error.code, error=str(error))
        except Exception:  # noqa: BLE001 - the border of a task, whose callers all answer a client
            fault = InternalError("the sandbox could not be resumed")
            _log.exception("sandbox.not_woken", sandbox_id=sandbox_id)
        else:
            _log.info("sandbox.woken", sandbox_id=sandbox_id, duration_ms=round((time.monotonic() - began) * 1000, 2))
            return None
        while len(self._faults) >= _MAX_FAULTS:
            del self._faults[next(iter(self._faults))]
        self._faults[sandbox_id] = (time.monotonic() + self._calming_s, fault)
        return fault

    def _recent_fault(self, sandbox_id: str) -> CloisterError | None:
        until, fault = self._faults.get(sandbox_id, (0.0, None))
        if fault is not None and until <= time.monotonic():
            del self._faults[sandbox_id]
            return None
        return fault
