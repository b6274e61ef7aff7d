"""Writing files so that they are there whole or not at all, whenever the process dies."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Make ``text`` what ``path`` holds, in place of what it held, readable by its owner only. Others may write it at the same time.

    It is in place for every process from then on; a loss of power may bring the old content back. Half written it is called
    ``.<name>.<hex digits>``, which a crash may leave. Raises: OSError; then nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
