"""Whether this host is going down: then no process lives on, whatever the server does.

Runs in: supervisor. Needs: systemd as the host's init. Source: systemctl(1), ``is-system-running``; sd_booted(3).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["host_goes_down"]

_BOOTED = Path("/run/systemd/system")
_COMMAND = ("systemctl", "is-system-running")
_TIMEOUT_S = 5.0


def host_goes_down(booted: Path = _BOOTED, command: tuple[str, ...] = _COMMAND) -> bool:
    """Whether systemd shuts this host down or reboots it. False where another program is the host's init. Blocks.

    Raises: OSError: systemd does not tell.
    """
    if not booted.is_dir():
        return False
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"`{' '.join(command)}` gave no answer within {_TIMEOUT_S:g} s") from error
    return answer.stdout.strip() == b"stopping"
