"""The ready pipe: what a starting sandbox tells the supervisor. The agent writes with this code and the supervisor reads with it. No I/O.

    R                    the agent serves
    S newline            the template's start and ready commands succeeded (only if the template has such a command)
    E reason newline     they failed
    anything else        pid 1: the agent ended; its status and the end of its log (native/init.c)

Code in the sandbox can write any of this. The supervisor shows the text to the user and never interprets it further.
"""

from __future__ import annotations

__all__ = ["MAX_OUTCOME_BYTES", "SERVING", "encode_outcome", "parse_outcome", "text_of"]

SERVING = b"R"
_STARTED, _FAILED = b"S", b"E"
_MAX_REASON_BYTES = 3000
"""A whole outcome is smaller than PIPE_BUF (pipe(7)), so that one write is atomic."""
MAX_OUTCOME_BYTES = 4096


def encode_outcome(failure: str) -> bytes:
    """The outcome of the start commands; an empty ``failure`` means success."""
    if not failure:
        return _STARTED + b"\n"
    return _FAILED + failure.encode("utf-8", "replace")[:_MAX_REASON_BYTES] + b"\n"


def parse_outcome(data: bytes) -> str:
    """Why the start commands failed, in words for the user; empty if they succeeded. ``data`` is empty if no outcome came."""
    if data.startswith(_STARTED):
        return ""
    if data.startswith(_FAILED):
        return text_of(data[1:])
    return text_of(data) or "it ended, or its agent did not say how it went"


def text_of(data: bytes) -> str:
    """A sandbox's bytes as text for an error message."""
    return data.decode(errors="replace").strip()
