"""A planned stop tells what is lost before it is lost, and pauses each sandbox in the best way that there is."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from cloister.errors import RuntimeFailedError, SandboxNotFoundError
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState, transition
from cloister.node.planned_stop import PlannedStop, Saving
from cloister.node.stop_plan import OnStop


class Node:
    """Sandboxes without processes of their own, and the ways to pause them."""

    def __init__(self, *names: str) -> None:
        self.records = {
            name: SandboxRecord(
                sandbox_id=name, template="t", runtime="r", state=SandboxState.RUNNING, started_at=0, end_at=9, limits=Limits()
            )
            for name in names
        }
        self.done: list[tuple[str, str]] = []
        self.faults: dict[tuple[str, PauseKind], Exception] = {}
        self.logged: list[str] = []

    def stop(self, on_stop: OnStop, *, checkpoints: bool = False) -> PlannedStop:
        """A stop of this node."""
        return PlannedStop(
            on_stop,
            Saving(freeze=self.freeze, keep_files=self.keep_files, checkpoint=self.checkpoint, saves_memory=("r",) if checkpoints else ()),
            lambda: list(self.records.values()),
        )

    async def freeze(self, name: str) -> SandboxRecord:
        """See Saving."""
        return self._pause(name, PauseKind.FROZEN)

    async def keep_files(self, name: str) -> SandboxRecord:
        """See Saving."""
        return self._pause(name, PauseKind.FILES)

    async def checkpoint(self, name: str) -> SandboxRecord:
        """See Saving."""
        return self._pause(name, PauseKind.CHECKPOINT)

    def _pause(self, name: str, kind: PauseKind) -> SandboxRecord:
        self.done.append((name, kind))
        if (name, kind) in self.faults:
            raise self.faults[name, kind]
        pausing = transition(self.records[name], SandboxState.PAUSING, pause=Pause(kind=kind, at=1))
        record = self.records[name] = transition(pausing, SandboxState.PAUSED)
        return record


async def test_kill_pauses_nothing() -> None:
    """The log names what ends, and how an operator avoids it."""
    node = Node("a")
    with capture_logs() as logs:
        assert not await node.stop(OnStop.KILL).run(host_goes_down=True)
    assert node.done == []
    assert logs[0]["event"] == "node.stop_loses"
    assert (logs[0]["loses"], logs[0]["sandboxes"]) == ("everything", ["a"])
    assert "on_stop=keep" in logs[0]["way_out"]


async def test_keep_leaves_all_as_they_are() -> None:
    """They live on."""
    node = Node("a")
    with capture_logs() as logs:
        assert await node.stop(OnStop.KEEP, checkpoints=True).run(host_goes_down=False)
    assert node.done == []
    assert [entry["event"] for entry in logs] == ["node.stop_loses_nothing"]
    assert not await Node().stop(OnStop.KEEP).run(host_goes_down=False)


async def test_pause_freezes_while_the_host_runs() -> None:
    """Their processes are there still."""
    node = Node("a", "b")
    assert await node.stop(OnStop.PAUSE).run(host_goes_down=False)
    assert sorted(node.done) == [("a", "frozen"), ("b", "frozen")]


@pytest.mark.parametrize("on_stop", [OnStop.KEEP, OnStop.PAUSE])
async def test_files_are_kept_when_the_host_goes_down(on_stop: OnStop) -> None:
    """The loss of memory is logged first; no process is left."""
    node = Node("a", "b")
    with capture_logs() as logs:
        assert not await node.stop(on_stop).run(host_goes_down=True)
    assert sorted(node.done) == [("a", "files"), ("b", "files")]
    assert [entry["event"] for entry in logs] == ["node.stop_loses", "node.sandboxes_saved"]
    assert (logs[0]["loses"], logs[0]["count"], logs[1]["files"]) == ("memory", 2, 2)


async def test_checkpoints_come_first() -> None:
    """A sandbox whose checkpoint is refused is saved in the next best way, and its loss is logged before."""
    node = Node("a", "b")
    node.faults["b", PauseKind.CHECKPOINT] = RuntimeFailedError("it has a System V segment")
    with capture_logs() as logs:
        assert not await node.stop(OnStop.PAUSE, checkpoints=True).run(host_goes_down=True)
    assert sorted(node.done) == [("a", "checkpoint"), ("b", "checkpoint"), ("b", "files")]
    (loss,) = [entry for entry in logs if entry["event"] == "node.stop_loses"]
    assert (loss["loses"], loss["sandboxes"], loss["why"]) == ("memory", ["b"], "it has a System V segment")


async def test_what_cannot_be_paused_lives_on() -> None:
    """The log says which; one that ended meanwhile is no fault."""
    node = Node("a", "gone")
    node.faults["a", PauseKind.FILES] = OSError("no space left")
    node.faults["gone", PauseKind.FILES] = SandboxNotFoundError("it has ended")
    with capture_logs() as logs:
        assert await node.stop(OnStop.PAUSE).run(host_goes_down=True)
    assert [entry["sandbox_id"] for entry in logs if entry["event"] == "sandbox.not_saved"] == ["a"]
    assert logs[-1]["not_paused"] == logs[-1]["ended"] == 1


async def test_sandboxes_on_disk_are_left_alone() -> None:
    """They need nothing."""
    node = Node("a")
    await node.keep_files("a")
    node.done.clear()
    assert not await node.stop(OnStop.PAUSE).run(host_goes_down=True)
    assert node.done == []
