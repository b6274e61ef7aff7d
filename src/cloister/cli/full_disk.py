"""Tells that an output of a command is on a full disk, in one line instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["NO_ROOM", "tell_no_room"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file that takes no more."""


def tell_no_room(error: OSError) -> None:
    """Print the error. Output that waits is dropped, because the end of the process would fail on it again."""
    place = f" {error.filename}" if error.filename else ""
    print(f"cloister: cannot write{place}: {error.strerror}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
