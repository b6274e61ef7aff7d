"""Records the changes of commands in the audit log, and opens that for commands.

The log belongs to the api process's user, who may have put anything there. Root therefore reads and writes it with that user's rights:
no link there leads root to a file of others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.model.audit import AuditRecord
from cloister.store.audit import AuditFiles

__all__ = ["Change", "audit_files", "recorded"]

_NOT_LOGGED_IN = 0xFFFFFFFF
"""Login id of a process that no login began."""


@dataclass
class Change:
    """The object of a change, when it is known."""

    object_id: str = ""
    team_id: str | None = None


@contextlib.contextmanager
def audit_files(settings: Settings) -> Iterator[AuditFiles]:
    """The files of the log, with the rights of their owner meanwhile."""
    owner = (settings.data_dir / "api").stat()
    is_root = os.geteuid() == 0
    groups = os.getgroups()
    if is_root:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        yield AuditFiles(settings.data_dir / "api" / "audit", total_bytes=settings.audit_total_mib << 20)
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


@contextlib.contextmanager
def recorded(settings: Settings, action: str, object_id: str = "") -> Iterator[Change]:
    """Record a change that the block makes, or its failure. A failure to record it is told, and ends nothing.

    There is no log before the first start of a server.
    """
    change = Change(object_id)
    try:
        yield change
    except CloisterError as error:
        _append(settings, action, change, error.code)
        raise
    _append(settings, action, change, None)


def _append(settings: Settings, action: str, change: Change, error: str | None) -> None:
    record = AuditRecord(
        at=time.time(),
        team_id=change.team_id,
        key_id=None,
        address=f"uid:{_user()}",
        action=action,
        object_id=change.object_id,
        error=error,
    )
    if not (settings.data_dir / "api").is_dir():
        return
    try:
        with audit_files(settings) as files:
            files.append(record.owner, [record])
    except OSError as fault:
        print(f"cloister: the audit log has no record of this: {fault}", file=sys.stderr)


def _user() -> int:
    """The user who logged in, even if that one became root since; else the process's own. Source: proc_pid_loginuid(5)."""
    with contextlib.suppress(OSError, ValueError):
        number = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
        if number != _NOT_LOGGED_IN:
            return number
    return os.getuid()
