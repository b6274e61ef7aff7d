"""How the supervisor saves the memory of a sandbox beside its disk: it fits that disk alone, and is never used with a later one."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from cloister.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NoCapacityError,
    QuotaExceededError,
    RuntimeFailedError,
    SandboxNotFoundError,
    UnavailableError,
)
from cloister.model.lifecycle import PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node import adoption
from cloister.node.journal import Found, Journal
from cloister.node.kept_disks import image_in
from cloister.nodewire.requests import Kill, TakeSnapshot
from cloister.runtime.base import BrokenSandboxError, RuntimeCapabilities
from framework.node_parts import WIDE
from framework.pausable import PausableHost, PausableNode, PausableSandbox, node_in, until, within


def kind_of(node: PausableNode) -> PauseKind | None:
    """How the sandbox is kept."""
    pause = node.live.find_any("one").record.pause
    return None if pause is None else pause.kind


def image_of(node: PausableNode) -> Path:
    """Where its memory is saved."""
    return image_in(node.parts.journal.directory_of("one"))


async def saved(node: PausableNode) -> SandboxRecord:
    """A sandbox whose memory has been saved."""
    await node.create()
    await node.pause()
    return await node.handlers.pausing.checkpoint("one")


async def test_memory_moves_to_disk_and_back(tmp_path: Path) -> None:
    """A frozen sandbox gives back all that it holds; a resume goes on with its memory, and the image goes."""
    async with node_in(tmp_path) as node:
        record = await saved(node)
        first = node.steps.made["one"]
        assert [call for call in first.calls if call != "usage"] == ["freeze", "checkpoint", "kill", "thaw", "keep_disk"]
        assert first.is_released
        assert record.pause is not None
        assert (record.pause.kind, [one.pause for one in node.events.paused]) == (PauseKind.CHECKPOINT, [record.pause])
        (entry,) = node.parts.journal.entries().entries
        assert (entry.record, entry.runtime_state) == (record, {"trees": ["/layer"]})
        assert image_of(node).is_dir()
        assert (await node.resume()).state is SandboxState.RUNNING
        assert node.steps.restored == ["memory"]
        assert not image_of(node).exists()


async def test_a_running_sandbox_is_frozen_first(tmp_path: Path) -> None:
    """For a planned stop, which saves all of them."""
    async with node_in(tmp_path) as node:
        await node.create()
        record = await node.handlers.pausing.checkpoint("one")
        assert record.pause is not None
        assert record.pause.kind is PauseKind.CHECKPOINT


async def test_memory_moves_to_disk_only_within_the_disk_of_its_team(tmp_path: Path) -> None:
    """Else it stays frozen. A stop of the server saves it all the same: nothing else would be left of it."""
    limits = dataclasses.replace(WIDE, team_disk_mib=Limits().disk_mib + Limits().mem_mib - 1)
    async with node_in(tmp_path, limits=limits) as node:
        await node.create()
        await node.pause()
        with pytest.raises(QuotaExceededError, match="MiB of disk"):
            await node.handlers.pausing.move_to_disk("one")
        assert kind_of(node) is PauseKind.FROZEN
        assert "checkpoint" not in node.steps.made["one"].calls
        await node.handlers.pausing.checkpoint("one")
        assert kind_of(node) is PauseKind.CHECKPOINT


async def test_a_sandbox_that_was_resumed_meanwhile_runs_on(tmp_path: Path) -> None:
    """The memory of frozen sandboxes moves to disk by itself. It was chosen while it was frozen, and a client has resumed it since."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause()
        running = await node.resume()
        assert await node.handlers.pausing.move_to_disk("one") == running
        assert node.live.find("one").record == running
        assert not node.events.paused[1:]


async def test_a_running_sandbox_that_a_capture_has_broken_keeps_its_files(tmp_path: Path) -> None:
    """Its processes must not go on, and the node says how it is kept."""

    class Breaking:
        def of(self, *_: object) -> None:
            raise BrokenSandboxError("a process of it stands still")

    async with node_in(tmp_path, snapshots=Breaking()) as node:
        await node.create()
        with pytest.raises(BrokenSandboxError, match="stands still"):
            await node.handlers.snapshot(TakeSnapshot("one", "b", "t", "n", memory=True))
        await until(lambda: node.events.paused)
        assert kind_of(node) is PauseKind.FILES
        assert node.steps.made["one"].is_released


async def test_memory_that_cannot_be_saved_stays_where_it_is(tmp_path: Path) -> None:
    """The sandbox stays frozen, and its record and an event say why."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.save_faults.append(ConflictError("it has System V shared memory"))
        with pytest.raises(ConflictError, match="System V"):
            await node.handlers.pausing.checkpoint("one")
        record = node.live.find_any("one").record
        assert record.is_frozen
        assert sandbox.is_frozen
        assert record.pause is not None
        assert record.pause.why_not_deeper == "it has System V shared memory"
        assert node.events.paused[-1].pause == record.pause
        assert node.parts.journal.entries().entries[0].record == record
        assert (await node.resume()).pause is None


async def test_a_sandbox_that_the_dumper_broke_keeps_its_files(tmp_path: Path) -> None:
    """It does not go on with a lost process: only its disk is kept, and the record and an event say why."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.save_faults.append(BrokenSandboxError("a process of it has ended"))
        with pytest.raises(BrokenSandboxError):
            await node.handlers.pausing.checkpoint("one")
        assert sandbox.is_released
        pause = node.live.find_any("one").record.pause
        assert pause is not None
        assert (pause.kind, pause.why_not_deeper) == (PauseKind.FILES, "a process of it has ended")
        assert node.events.paused[-1].pause == pause
        assert (await node.resume()).pause is None
        assert node.steps.restored == [None]


async def test_a_save_that_fails_for_a_moment_is_tried_once_more(tmp_path: Path) -> None:
    """The sandbox runs between the two attempts, and stands still afterwards, also if the second one fails."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.save_faults += [RuntimeFailedError("a credential is in flight")] * 2
        with pytest.raises(RuntimeFailedError, match="in flight"):
            await node.handlers.pausing.checkpoint("one")
        assert sandbox.calls[-4:] == ["checkpoint", "thaw", "freeze", "checkpoint"]
        assert sandbox.is_frozen
        sandbox.save_faults.append(RuntimeFailedError("a credential is in flight"))
        await node.handlers.pausing.checkpoint("one")
        assert kind_of(node) is PauseKind.CHECKPOINT


async def test_a_sandbox_that_does_not_freeze_again_keeps_its_files(tmp_path: Path) -> None:
    """Its record says that it is paused, so it must not run on."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.save_faults.append(RuntimeFailedError("a credential is in flight"))
        sandbox.freeze_faults.append(DeadlineError("not in time"))
        with pytest.raises(BrokenSandboxError, match="not in time"):
            await node.handlers.pausing.checkpoint("one")
        assert sandbox.is_killed
        assert kind_of(node) is PauseKind.FILES


async def test_a_kill_wins_over_the_second_attempt(tmp_path: Path) -> None:
    """The sandbox is not left frozen, where its processes could not die."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.save_faults.append(RuntimeFailedError("a credential is in flight"))
        sandbox.may_freeze.clear()
        sandbox.freezing.clear()
        saving = asyncio.create_task(node.handlers.pausing.checkpoint("one"))
        await until(sandbox.freezing.is_set)
        assert await within(node.handlers.kill(Kill("one")))
        with pytest.raises(SandboxNotFoundError):
            await saving
        assert sandbox.calls.count("checkpoint") == 1
        await until(lambda: not node.live.is_taken("one"))


async def test_a_runtime_without_checkpoints_is_not_asked(tmp_path: Path) -> None:
    """The sandbox stays frozen."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.capabilities = RuntimeCapabilities(freeze=True, keep_disk=True)
        with pytest.raises(InvalidRequestError, match="save the memory"):
            await node.handlers.pausing.checkpoint("one")
        assert "checkpoint" not in sandbox.calls
        assert sandbox.is_frozen


async def test_an_image_does_not_outlive_the_disk_that_it_fits(tmp_path: Path) -> None:
    """A start without the memory writes to the disk, so the image goes first, also if that start then fails."""
    async with node_in(tmp_path) as node:
        await saved(node)
        node.steps.create_faults.append(UnavailableError("no slot"))
        with pytest.raises(UnavailableError, match="no slot"):
            await node.resume(memory=False)
        assert kind_of(node) is PauseKind.FILES
        assert not image_of(node).exists()
        await node.resume()
        assert node.steps.restored == [None, None]


async def test_an_image_that_cannot_be_restored_stays(tmp_path: Path) -> None:
    """The resume says so, and another one may succeed, with it or without it."""
    async with node_in(tmp_path) as node:
        record = await saved(node)
        node.steps.create_faults.append(UnavailableError("it was made on another processor"))
        with pytest.raises(UnavailableError, match="another processor"):
            await node.resume()
        assert node.live.find_any("one").record == record
        assert image_of(node).is_dir()
        await node.resume()
        assert node.steps.restored == ["memory", "memory"]


async def test_an_image_is_dropped_if_the_disk_was_not_stored_whole(tmp_path: Path) -> None:
    """It would go on with a disk that is not the one that it knows."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        sandbox.keep_faults.append(OSError(5, "input/output error"))
        await node.handlers.pausing.checkpoint("one")
        assert kind_of(node) is PauseKind.FILES
        await node.resume()
        assert node.steps.restored == [None]


async def test_a_kill_removes_the_image(tmp_path: Path) -> None:
    """With all other files."""
    async with node_in(tmp_path) as node:
        await saved(node)
        assert await within(node.handlers.kill(Kill("one")))
        await until(lambda: not node.live.is_taken("one"))
        assert node.parts.journal.entries() == Found()
        assert not image_of(node).exists()


async def test_a_restore_needs_memory_of_the_host(tmp_path: Path) -> None:
    """As much as the image has, beside the reserve."""
    async with node_in(tmp_path) as node:
        await saved(node)
        with (image_of(node) / "more").open("wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(NoCapacityError, match="memory available"):
            await node.resume()
        assert kind_of(node) is PauseKind.CHECKPOINT


async def test_saved_memory_counts_as_disk(tmp_path: Path) -> None:
    """For its team, with the limit of its memory."""
    disk, memory = Limits().disk_mib, Limits().mem_mib
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, team_disk_mib=2 * disk + memory - 1)) as node:
        await saved(node)
        with pytest.raises(Exception, match="MiB of disk"):
            await node.create("two")


# ---- a supervisor that comes back ----


async def left_behind(directory: Path, state: SandboxState, *, has_pid: bool) -> PausableSandbox:
    """A sandbox with saved memory whose supervisor died when the journal had it in that state."""
    node = PausableNode(directory)
    record = await saved(node)
    sandbox = PausableSandbox("one")
    entry = sandbox.state() if has_pid else {"trees": ["/layer"]}
    Journal(directory / "j", directory / "copies").write(dataclasses.replace(record, state=state), entry)
    node.live.stop_timers()
    await node.parts.supervisor.stop(keep_sandboxes=True)
    return sandbox


@pytest.mark.parametrize(
    ("state", "has_pid", "lives", "kind"),
    [
        (SandboxState.PAUSED, False, False, PauseKind.CHECKPOINT),
        (SandboxState.PAUSED, True, True, PauseKind.CHECKPOINT),  # between the image and the kill
        (SandboxState.PAUSED, True, False, PauseKind.FILES),  # the disk may not be as it was saved with
        (SandboxState.RESUMING, False, False, PauseKind.CHECKPOINT),  # before the first process
        (SandboxState.RESUMING, True, False, PauseKind.FILES),  # it may have run
        (SandboxState.RESUMING, True, True, PauseKind.FILES),  # its agent does not answer, but it may have run
    ],
)
async def test_memory_is_kept_after_a_restart_if_nothing_can_have_run(
    tmp_path: Path, state: SandboxState, has_pid: bool, lives: bool, kind: PauseKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the files alone are, and the image is gone."""
    monkeypatch.setattr(adoption, "_RESTORE_S", 0.05)
    sandbox = await left_behind(tmp_path, state, has_pid=has_pid)
    sandbox.is_frozen = state is SandboxState.PAUSED
    async with node_in(tmp_path, host=PausableHost({"one": sandbox} if lives else {}, disks={"one"})) as node:
        await node.parts.supervisor.start()
        assert kind_of(node) is kind
        assert image_of(node).exists() is (kind is PauseKind.CHECKPOINT)
        await node.resume()
        assert node.steps.restored == ["memory" if kind is PauseKind.CHECKPOINT else None]


async def test_a_restore_that_came_to_its_end_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent answers after a while: it runs, though the supervisor that restored it is dead."""
    sandbox = await left_behind(tmp_path, SandboxState.RESUMING, has_pid=True)
    answers = iter((False, False, True))
    monkeypatch.setattr(adoption, "_answers", lambda _sandbox: next(answers))
    async with node_in(tmp_path, host=PausableHost({"one": sandbox}, disks={"one"})) as node:
        await node.parts.supervisor.start()
        assert node.live.find("one").record.pause is None
        assert not image_of(node).exists()
        assert asyncio.get_running_loop().remove_reader(sandbox.pidfd)


async def test_a_group_with_saved_memory_is_not_thawed_at_a_start(tmp_path: Path) -> None:
    """Between the image and the kill a thawed program would write to the disk."""
    await left_behind(tmp_path, SandboxState.PAUSED, has_pid=True)
    assert Journal(tmp_path / "j", tmp_path / "copies").frozen() == {"one"}
