"""The share of its team's limits that one sandbox uses. Pure."""

from __future__ import annotations

from cloister.model.lifecycle import PauseKind, TimeoutAction
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.team import TeamUse

__all__ = ["use_of"]

_RUNS = frozenset({SandboxState.CREATING, SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.RESUMING})
"""States that count as running. A resume takes its place at once, and a pause gives it back at its end."""
_STAYS = frozenset({SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING})
"""States that have a place among the team's paused sandboxes. A resume that fails needs its place again."""


def use_of(row: Sandbox) -> TeamUse:
    """The use of a sandbox; nothing if it has ended. Memory that is saved on disk counts as disk."""
    if row.state is SandboxState.ENDED:
        return TeamUse()
    runs = row.state in _RUNS
    has_image = row.pause is not None and row.pause.kind is PauseKind.CHECKPOINT
    return TeamUse(
        sandboxes=int(runs),
        paused=int(row.state in _STAYS or row.lifecycle.on_timeout is not TimeoutAction.KILL),
        cpu_count=row.cpu_count if runs else 0.0,
        mem_mib=row.mem_mib if runs else 0,
        disk_mib=row.disk_mib + (row.mem_mib if has_image else 0),
    )
