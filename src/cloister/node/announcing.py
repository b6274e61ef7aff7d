"""Tells the agent of a sandbox that it is about to stand still, so that its clients lose no output. Best effort, within a bounded time."""

from __future__ import annotations

import structlog

from cloister.agentclient.pausing import announce_pause
from cloister.errors import CloisterError
from cloister.model.sandbox import SandboxRecord
from cloister.model.secret import reveal
from cloister.protocol.pausing import Standstill
from cloister.runtime.base import RuntimeSandbox

__all__ = ["announce"]

_log = structlog.get_logger("cloister.node")


def announce(record: SandboxRecord, sandbox: RuntimeSandbox, kind: Standstill) -> None:
    """Announce it. An agent that is silent, or of an older release, changes nothing: its clients may miss some output.

    Runs in: a worker thread.
    """
    try:
        announce_pause(sandbox.dial(), reveal(record.access_token), kind)
    except (CloisterError, OSError) as error:
        _log.info("pause.not_announced", sandbox_id=record.sandbox_id, kind=kind, error=str(error))
