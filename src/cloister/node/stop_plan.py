"""The effect of a planned stop of the server on its sandboxes: which of them lose nothing, and which lose what. Pure data.

The node acts by the plan and logs it before it acts; ``cloister status`` shows it while the server runs. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cloister.model.sandbox import SandboxRecord, SandboxState

__all__ = ["OnStop", "StopPlan", "has_processes", "plan_reboot_without_server", "plan_stop"]


class OnStop(StrEnum):
    """The setting ``on_stop``: the action of a planned stop."""

    KILL = "kill"
    """End every sandbox that has processes."""
    KEEP = "keep"
    """Leave all processes alive."""
    PAUSE = "pause"
    """Pause every sandbox, with its memory: on disk where checkpoints are on, else in the host's memory."""


@dataclass(frozen=True, kw_only=True)
class StopPlan:
    """The ids of the sandboxes, by what each would lose."""

    on_stop: OnStop | None
    """None: no server runs, so that none can pause anything first."""
    host_goes_down: bool
    """No process outlives the stop. So sandboxes that would keep theirs are written to disk first, as far as that is possible."""
    lose_nothing: tuple[str, ...] = ()
    lose_memory: tuple[str, ...] = ()
    """They keep their files, and lose their processes and memory."""
    lose_everything: tuple[str, ...] = ()

    @property
    def ways_out(self) -> str:
        """How an operator avoids the losses; empty if there are none."""
        if self.on_stop is None:
            return "start the server before the host goes down" if self.lose_everything else ""
        if self.lose_everything and self.host_goes_down:
            return "on_stop=keep or on_stop=pause keeps the files at least, and the memory where checkpoints work"
        if self.lose_everything:
            return "on_stop=keep or on_stop=pause loses nothing as long as the host runs"
        return "checkpoints keep memory on disk: doctor says whether they work here" if self.lose_memory else ""

    def told(self) -> str:
        """One sentence for people."""
        parts = [
            f"{len(ids)} {loss}"
            for ids, loss in (
                (self.lose_nothing, "lose nothing"),
                (self.lose_memory, "lose processes and memory and keep their files"),
                (self.lose_everything, "end"),
            )
            if ids
        ]
        return ", ".join(parts) or "there are no sandboxes"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "ways_out": self.ways_out}


def has_processes(record: SandboxRecord) -> bool:
    """Whether a sandbox has processes, which may be frozen."""
    return record.state is not SandboxState.PAUSED or record.is_frozen


def plan_stop(
    records: Iterable[SandboxRecord], on_stop: OnStop, *, saves_memory: Collection[str], host_goes_down: bool = False
) -> StopPlan:
    """The plan for these sandboxes.

    ``saves_memory``: the runtimes in which checkpoints are on. A sandbox whose checkpoint was refused before will lose its memory anyway.
    """
    nothing, memory, everything = list[str](), list[str](), list[str]()
    for record in records:
        is_written = record.runtime in saves_memory and (record.pause is None or not record.pause.why_not_deeper)
        if has_processes(record) and on_stop is OnStop.KILL:
            everything.append(record.sandbox_id)
        elif has_processes(record) and host_goes_down and not is_written:
            memory.append(record.sandbox_id)
        else:
            nothing.append(record.sandbox_id)
    return StopPlan(
        on_stop=on_stop,
        host_goes_down=host_goes_down,
        lose_nothing=tuple(nothing),
        lose_memory=tuple(memory),
        lose_everything=tuple(everything),
    )


def plan_reboot_without_server(records: Iterable[SandboxRecord]) -> StopPlan:
    """The plan if the host goes down while no server runs. The next start keeps the files of frozen sandboxes alone."""
    ids: dict[str, list[str]] = {"lose_nothing": [], "lose_memory": [], "lose_everything": []}
    for record in records:
        loss = "lose_nothing" if not has_processes(record) else "lose_memory" if record.is_frozen else "lose_everything"
        ids[loss].append(record.sandbox_id)
    return StopPlan(on_stop=None, host_goes_down=True, **{loss: tuple(found) for loss, found in ids.items()})
