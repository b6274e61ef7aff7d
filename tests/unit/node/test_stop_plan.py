"""The sandboxes that a planned stop takes something from, for each setting and each way to pause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.stop_plan import OnStop, StopPlan, has_processes, plan_reboot_without_server, plan_stop


def record(name: str, kind: PauseKind | None = None, why: str = "") -> SandboxRecord:
    """A running sandbox, or one that is paused in this way."""
    state = SandboxState.RUNNING if kind is None else SandboxState.PAUSED
    pause = None if kind is None else Pause(kind=kind, at=1.0, why_not_deeper=why)
    return SandboxRecord(
        sandbox_id=name, template="t", runtime="namespace", state=state, started_at=0, end_at=9, limits=Limits(), pause=pause
    )


ALL = (
    record("runs"),
    record("frozen", PauseKind.FROZEN),
    record("refused", PauseKind.FROZEN, "it has a System V segment"),
    record("written", PauseKind.CHECKPOINT),
    record("files", PauseKind.FILES),
)
ON_DISK = ("written", "files")
ALIVE = ("runs", "frozen", "refused")


@pytest.mark.parametrize("saves_memory", [(), ("namespace",)])
@pytest.mark.parametrize("host_goes_down", [False, True])
def test_kill_ends_what_has_processes(saves_memory: tuple[str, ...], host_goes_down: bool) -> None:
    """Sandboxes that are on disk stay there."""
    plan = plan_stop(ALL, OnStop.KILL, saves_memory=saves_memory, host_goes_down=host_goes_down)
    assert plan == StopPlan(on_stop=OnStop.KILL, host_goes_down=host_goes_down, lose_nothing=ON_DISK, lose_everything=ALIVE)
    assert ("files at least" in plan.ways_out) is host_goes_down
    assert ("as long as the host runs" in plan.ways_out) is not host_goes_down


@pytest.mark.parametrize("on_stop", [OnStop.KEEP, OnStop.PAUSE])
def test_nothing_is_lost_while_the_host_runs(on_stop: OnStop) -> None:
    """Every sandbox lives on, or stands still."""
    plan = plan_stop(ALL, on_stop, saves_memory=())
    assert plan == StopPlan(on_stop=on_stop, host_goes_down=False, lose_nothing=tuple(one.sandbox_id for one in ALL))
    assert not plan.ways_out


@pytest.mark.parametrize("on_stop", [OnStop.KEEP, OnStop.PAUSE])
def test_memory_is_lost_with_the_host(on_stop: OnStop) -> None:
    """Everything that has processes keeps its files alone, and the plan says what would keep more."""
    plan = plan_stop(ALL, on_stop, saves_memory=(), host_goes_down=True)
    assert plan == StopPlan(on_stop=on_stop, host_goes_down=True, lose_nothing=ON_DISK, lose_memory=ALIVE)
    assert "checkpoints" in plan.ways_out
    assert plan.told() == "2 lose nothing, 3 lose processes and memory and keep their files"


def test_checkpoints_keep_all_but_what_was_refused() -> None:
    """A checkpoint that was refused once is not counted on."""
    plan = plan_stop(ALL, OnStop.KEEP, saves_memory=("namespace",), host_goes_down=True)
    assert plan.lose_nothing == ("runs", "frozen", *ON_DISK)
    assert plan.lose_memory == ("refused",)


def test_a_sandbox_between_two_states_has_processes() -> None:
    """A pause or a resume that is cut off may have left some."""
    for state in (SandboxState.PAUSING, SandboxState.RESUMING):
        assert has_processes(replace(record("x", PauseKind.FILES), state=state))
    assert not has_processes(record("x", PauseKind.FILES))


def test_a_reboot_without_a_server_ends_what_runs() -> None:
    """It can pause nothing first. Frozen sandboxes are kept with their files by the next start."""
    plan = plan_reboot_without_server(ALL)
    assert (plan.lose_nothing, plan.lose_memory, plan.lose_everything) == (ON_DISK, ("frozen", "refused"), ("runs",))
    assert "start the server" in plan.ways_out
    assert not plan_reboot_without_server(ALL[1:]).ways_out


def test_no_sandboxes() -> None:
    """The text says so."""
    assert plan_stop((), OnStop.KILL, saves_memory=()).told() == "there are no sandboxes"
