"""The words that a sandbox writes to its ready pipe while it starts: that its agent serves, and then how the template's start command went.

The words are those of protocol/ready.py.

Runs in: supervisor. Needs: nothing.
"""

from __future__ import annotations

import os
import select
import time

from cloister.errors import RuntimeFailedError, StartFailedError
from cloister.protocol.ready import MAX_OUTCOME_BYTES, SERVING, parse_outcome, text_of

__all__ = ["take_outcome", "wait_serving"]

_READY_TIMEOUT_S = 60.0


def wait_serving(ready: int, pidfd: int) -> None:
    """Until the agent says that it serves. Raises: RuntimeFailedError with the end of its log."""
    poller = select.poll()
    poller.register(ready, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        events = dict(poller.poll(int(left * 1000)))
        if ready in events:
            word = os.read(ready, len(SERVING))  # the outcome may have come already
            if word == SERVING:
                return
            raise RuntimeFailedError(f"the agent did not start: {text_of(word + _rest(ready))}")
        if pidfd in events:
            raise RuntimeFailedError("the sandbox ended before its agent was ready")
    raise RuntimeFailedError(f"the agent was not ready within {_READY_TIMEOUT_S:.0f} s")


def take_outcome(ready: int) -> None:
    """What became of the template's start command. Raises: StartFailedError, also when nothing has come."""
    if failure := parse_outcome(_rest(ready)):
        raise StartFailedError(f"the sandbox did not start: {failure}")


def _rest(ready: int) -> bytes:
    os.set_blocking(ready, False)
    try:
        return os.read(ready, MAX_OUTCOME_BYTES)
    except BlockingIOError:
        return b""
