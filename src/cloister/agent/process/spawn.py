"""Starts a program by vfork, as the agent's user or another one. The other user is taken by a small program of ours, ``become``.

CPython starts by vfork only where no user changes; its fork copies the agent's page tables, and the agent then copies pages that it writes.
A checkout without the agent's tree has no ``become``, and forks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloister.agent.accounts import Account

__all__ = ["spawn"]

_BECOME = Path(__file__).resolve().parents[4] / "bin" / "become"
_NUMBER_BYTES = 4


def spawn(argv: Sequence[str], env: Mapping[str, str], account: Account, **more: Any) -> subprocess.Popen[bytes]:
    """A program that leads a session of its own; ``more`` is for :class:`subprocess.Popen`. Raises: OSError."""
    options = {"env": dict(env), "start_new_session": True, "umask": 0o022, **more}
    if os.getuid() != 0 or account.uid == 0:
        return subprocess.Popen(list(argv), **options)
    if more.get("preexec_fn") is not None or not _BECOME.exists():
        return subprocess.Popen(list(argv), **options, user=account.uid, group=account.gid, extra_groups=account.groups)
    return _spawn_as(argv, account, options)


def _spawn_as(argv: Sequence[str], account: Account, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    try:
        try:
            words = [str(_BECOME), str(writing), str(account.uid), str(account.gid), ",".join(map(str, account.groups)), *argv]
            process = subprocess.Popen(words, **{**options, "pass_fds": (*options.get("pass_fds", ()), writing)})
        finally:
            os.close(writing)
        failed = int.from_bytes(os.read(reading, _NUMBER_BYTES), "little")
    finally:
        os.close(reading)
    if failed:
        with process:  # waits for its end
            pass
        raise OSError(failed, os.strerror(failed), argv[0])
    return process
