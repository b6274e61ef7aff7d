"""The frozen sandboxes of a node, measured and moved to swap for :mod:`cloister.node.paused_memory`.

Event loop only. The memory of a sandbox that stands still changes only when it is moved, so it is measured seldom.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import structlog

from cloister.errors import CloisterError, SandboxNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.node.background import WorkerThreads
from cloister.node.live import LiveSandbox, LiveSandboxes
from cloister.node.paused_memory import FrozenSandbox

__all__ = ["LiveFrozenSandboxes"]

_log = structlog.get_logger("cloister.node")
_MEASURE_S = 60.0
"""The kernel takes back page cache by itself, and moves memory to swap when it likes."""


class LiveFrozenSandboxes:
    """Implements :class:`~cloister.node.paused_memory.FrozenSandboxes` by the live ones."""

    def __init__(self, live: LiveSandboxes, threads: WorkerThreads) -> None:
        self._live = live
        self._threads = threads
        self._measured: dict[str, tuple[float, FrozenSandbox]] = {}
        """With the time (monotonic) of the measurement."""

    async def frozen(self) -> Sequence[FrozenSandbox]:
        """Each of them. One that ends meanwhile is left out."""
        records = {record.sandbox_id: record for record in self._live.records() if record.is_frozen}
        oldest = time.monotonic() - _MEASURE_S
        kept = self._measured = {
            sandbox_id: (at, one)
            for sandbox_id, (at, one) in self._measured.items()
            if at > oldest and sandbox_id in records and one.frozen_at == _pause_of(records[sandbox_id])
        }
        missing = [self._live.find_any(sandbox_id) for sandbox_id in records if sandbox_id not in kept]
        if missing:
            for one in await self._threads.run(partial(_measure, missing)):
                kept[one.sandbox_id] = time.monotonic(), one
        return [one for _at, one in kept.values()]

    async def page_out(self, sandbox_id: str) -> None:
        """See :class:`~cloister.node.paused_memory.FrozenSandboxes`. A resume does not wait for it."""
        live = self._live.find_any(sandbox_id)
        if live.held is None or not live.record.is_frozen or live.change is not None:
            raise SandboxNotFoundError(f"sandbox {sandbox_id} is not frozen any more")
        try:
            await self._threads.run(live.held.page_out)
        finally:
            self._measured.pop(sandbox_id, None)


def _pause_of(record: SandboxRecord) -> float:
    return 0.0 if record.pause is None else record.pause.at


def _measure(frozen: Sequence[LiveSandbox]) -> list[FrozenSandbox]:
    """Runs in: a worker thread."""
    found = []
    for live in frozen:
        record, sandbox = live.record, live.held
        if record.pause is None or sandbox is None:
            continue
        try:
            resident, swapped = sandbox.usage().mem_used_bytes, sandbox.swapped_bytes()
        except (CloisterError, OSError) as error:  # it ends just now
            _log.debug("sandbox.not_measured", sandbox_id=record.sandbox_id, error=str(error))
            continue
        found.append(
            FrozenSandbox(
                sandbox_id=record.sandbox_id,
                frozen_at=record.pause.at,
                resident=resident,
                swapped=swapped,
                is_refused=bool(record.pause.why_not_deeper) or not sandbox.capabilities.checkpoint,
            )
        )
    return found
