"""Work of the api process that no request asks for: the node's events, and the removal of what is too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from cloister.control.builds.ending import BuildEnds
from cloister.control.logs import SandboxLogs
from cloister.control.pausing import Pausing
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes
from cloister.errors import CloisterError
from cloister.model.build import EndedBuild
from cloister.model.node import EndedSandbox, PausedSandbox, SandboxNote
from cloister.nodewire.methods import NodeEvent

__all__ = ["Work", "cancel", "deliver_events", "keep_agreeing", "prune"]

_log = structlog.get_logger("cloister.api")
_PRUNE_S = 600.0
_AGREE_S = 10.0
Work = Callable[[], Awaitable[None]]


def deliver_events(sandboxes: Sandboxes, pausing: Pausing, logs: SandboxLogs, builds: BuildEnds) -> Callable[[NodeEvent], None]:
    """A function that hands each event of the node to its use case."""

    def deliver(event: NodeEvent) -> None:
        match event:
            case EndedSandbox():
                sandboxes.ended(event)
            case PausedSandbox():
                pausing.paused_by_node(event)
            case SandboxNote():
                logs.noted(event)
            case EndedBuild():
                builds.ended(event)

    return deliver


async def prune(registry: Registry, works: Sequence[Work], works_of_leader: Sequence[Work]) -> None:
    """Remove what is too old, again and again. Of the processes that share a store, the leader alone does ``works_of_leader``."""
    while True:
        await asyncio.sleep(_PRUNE_S)
        began = time.monotonic()
        for work in (*works, *works_of_leader) if registry.is_leader else works:
            try:
                await work()
            except (CloisterError, OSError):  # on a full disk the database cannot delete rows, and the others free space
                _log.exception("registry.not_pruned")
        _log.debug("registry.pruned", duration_s=time.monotonic() - began)


async def keep_agreeing(registry: Registry, compare: Work) -> None:
    """Compare both sides now and then while this process leads: another one may have died in the middle of a change."""
    while True:
        await asyncio.sleep(_AGREE_S)
        if registry.is_leader:
            try:
                await compare()
            except CloisterError:
                _log.exception("node.not_compared")


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
