"""Carries out a planned stop: tells what the sandboxes will lose, then pauses those that are to be paused.

::

                     the host runs on                the host goes down
    on_stop=kill     every sandbox with processes ends (live.py)
    on_stop=keep     all live on                     as pause
    on_stop=pause    to disk where checkpoints       to disk where checkpoints are on,
                     are on, else frozen             else files alone

A sandbox that cannot be paused is left as it is, and lives on without a supervisor. Event loop only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog

from cloister.errors import CloisterError, SandboxNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.node.stop_plan import OnStop, StopPlan, has_processes, plan_stop

__all__ = ["PlannedStop", "Saving"]

_log = structlog.get_logger("cloister.node")
_AT_ONCE = 8
_TOLD = 20
"""Ids that one line of the log names."""

Save = Callable[[str], Awaitable[SandboxRecord]]
"""Pauses the sandbox of that id in one way, and gives its record. Raises: CloisterError, OSError: it is as before."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The ways to pause a sandbox before a stop. Quotas do not bound them."""

    freeze: Save
    keep_files: Save
    checkpoint: Save
    saves_memory: Collection[str] = ()
    """The runtimes in which checkpoints are on."""


class PlannedStop:
    """One stop of a node."""

    def __init__(self, on_stop: OnStop, saving: Saving, records: Callable[[], list[SandboxRecord]]) -> None:
        """``records`` gives those of all sandboxes that have an owner and are not ending."""
        self._on_stop = on_stop
        self._saving = saving
        self._records = records

    def has_sandboxes(self) -> bool:
        """Whether any has processes."""
        return any(has_processes(record) for record in self._records())

    def plan(self, *, host_goes_down: bool) -> StopPlan:
        """The plan for the sandboxes that there are now."""
        return plan_stop(self._records(), self._on_stop, saves_memory=self._saving.saves_memory, host_goes_down=host_goes_down)

    async def run(self, *, host_goes_down: bool) -> bool:
        """Act by the plan; whether sandboxes are to live on without a supervisor."""
        plan = self.plan(host_goes_down=host_goes_down)
        _tell(plan)
        if plan.on_stop is OnStop.KILL:
            return False
        if plan.on_stop is OnStop.PAUSE or host_goes_down:
            await self.save_all(host_goes_down=host_goes_down)
        return self.has_sandboxes()

    def _ways(self, record: SandboxRecord, *, host_goes_down: bool) -> list[Save]:
        """The ways to try with a sandbox, the best one first."""
        last = self._saving.keep_files if host_goes_down else self._saving.freeze
        return [self._saving.checkpoint, last] if record.runtime in self._saving.saves_memory else [last]

    async def save_all(self, *, host_goes_down: bool, while_: Callable[[], bool] = lambda: True) -> dict[str, int]:
        """Pause every sandbox with processes, as deep as it can be; their number by the kind of the pause, ``not_paused`` or ``ended``.

        None is begun any more when ``while_`` says no.
        """
        waiting = [record for record in self._records() if has_processes(record)]
        kinds = Counter[str]()

        async def work() -> None:
            while waiting and while_():
                record = waiting.pop()
                kinds[await self._save(record.sandbox_id, self._ways(record, host_goes_down=host_goes_down))] += 1

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        if kinds:
            _log.info("node.sandboxes_saved", **kinds)
        return dict(kinds)

    async def _save(self, sandbox_id: str, ways: list[Save]) -> str:
        """The kind of the pause; ``not_paused``, or ``ended`` if it did meanwhile."""
        why = ""
        for save in ways:
            if why and save is self._saving.keep_files:  # the plan counted on a checkpoint
                _log.warning("node.stop_loses", loses="memory", count=1, sandboxes=[sandbox_id], why=why)
            try:
                record = await save(sandbox_id)
            except SandboxNotFoundError:
                return "ended"
            except (CloisterError, OSError) as error:
                why = str(error)
                _log.warning("sandbox.not_saved", sandbox_id=sandbox_id, error=why)
            else:
                return "not_paused" if record.pause is None else str(record.pause.kind)
        return "not_paused"


def _tell(plan: StopPlan) -> None:
    """Before anything is lost."""
    losses = {"memory": plan.lose_memory, "everything": plan.lose_everything}
    for loss, ids in losses.items():
        if ids:
            told = {"count": len(ids), "sandboxes": list(ids[:_TOLD]), "way_out": plan.ways_out}
            _log.warning("node.stop_loses", loses=loss, host_goes_down=plan.host_goes_down, **told)
    if not any(losses.values()) and plan.lose_nothing:
        _log.info("node.stop_loses_nothing", count=len(plan.lose_nothing), host_goes_down=plan.host_goes_down)
