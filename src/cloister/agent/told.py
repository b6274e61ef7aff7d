"""Files that tell programs which sandbox and template they are in, as the official service has them: ``/run/e2b/.E2B_SANDBOX_ID``.

They say the same as the environment variables of those names, without a line end, and are right in copies, too.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cloister.protocol.init_document import InitDocument

__all__ = ["DIRECTORY", "tell_ids"]

DIRECTORY = Path("/run/e2b")
_MODE = 0o644


def tell_ids(document: InitDocument, directory: Path = DIRECTORY) -> None:
    """Write the files, unless they are right. A file is replaced, never written into: its path may be anything of the template's.

    Raises: OSError, for example on a full disk; then no file has another sandbox's id.
    """
    for name, text in ((".E2B_SANDBOX_ID", document.sandbox_id), (".E2B_TEMPLATE_ID", document.template_id)):
        path, fresh = directory / name, directory / f"{name}.new"
        with contextlib.suppress(OSError):
            if not path.is_symlink() and path.is_file() and path.read_text() == text:
                continue
        for old in (path, fresh):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                old.unlink()
        directory.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, _MODE)
            file.write(text)
        fresh.rename(path)
