"""What a sandbox says on its ready pipe while it starts: that its agent serves, and then how the template's start command went.

    R                       the agent serves
    S and a newline         what the template starts is up (only where it starts something)
    E, why, a newline       it is not, and will not be
    anything else           pid 1: the agent ended, and the end of its log

The words are a sandbox's: shown as text, and never parsed further. Runs in: supervisor.
"""

from __future__ import annotations

import os
import select
import time

from cloister.errors import RuntimeFailedError, StartFailedError

__all__ = ["take_outcome", "wait_serving"]

_READY_TIMEOUT_S = 60.0
_MAX_BYTES = 4096


def wait_serving(ready: int, pidfd: int) -> None:
    """Until the agent says that it serves. Raises: RuntimeFailedError with the end of its log."""
    poller = select.poll()
    poller.register(ready, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        events = dict(poller.poll(int(left * 1000)))
        if ready in events:
            word = os.read(ready, 1)  # the next word may have come already
            if word == b"R":
                return
            raise RuntimeFailedError(f"the agent did not start: {_text(word + _rest(ready))}")
        if pidfd in events:
            raise RuntimeFailedError("the sandbox ended before its agent was ready")
    raise RuntimeFailedError(f"the agent was not ready within {_READY_TIMEOUT_S:.0f} s")


def take_outcome(ready: int) -> None:
    """What became of the template's start command. Raises: StartFailedError, also when nothing has come."""
    word = _rest(ready)
    if word.startswith(b"S"):
        return
    if word.startswith(b"E"):
        raise StartFailedError(f"the sandbox did not start: {_text(word[1:])}")
    raise StartFailedError(f"the sandbox did not start: {_text(word) or 'it ended, or its agent did not say how it went'}")


def _rest(ready: int) -> bytes:
    os.set_blocking(ready, False)
    try:
        return os.read(ready, _MAX_BYTES)
    except BlockingIOError:
        return b""


def _text(word: bytes) -> str:
    return word.decode(errors="replace").strip()
