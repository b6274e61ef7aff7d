"""How the supervisor keeps the disk of a sandbox alone, and starts the sandbox again: never lost, whatever fails and whenever it dies."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.errors import IsolationError, NoCapacityError, RuntimeFailedError, SandboxNotFoundError, StartFailedError
from cloister.model.lifecycle import Lifecycle, PauseKind, TimeoutAction
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState
from cloister.node import kept_disks, pausing
from cloister.node.journal import Found, Journal
from cloister.node.origin import read_origin
from cloister.nodewire.requests import AskMetrics, Kill, SandboxRef
from framework.node_parts import WIDE
from framework.pausable import PausableHost, PausableNode, PausableSandbox, ended, node_in, until, within
from framework.waiting import turns

ENVS = {"SECRET": "s3cret"}


def kind_of(record: SandboxRecord) -> PauseKind | None:
    """How a paused sandbox is kept."""
    return None if record.pause is None else record.pause.kind


async def test_a_files_pause_ends_the_processes_and_holds_nothing(tmp_path: Path) -> None:
    """The journal keeps the layers that the disk stands on; a resume makes a new sandbox with the same variables."""
    async with node_in(tmp_path) as node:
        first = await node.create(envs=ENVS)
        paused = await node.pause(memory=False)
        assert (paused.state, kind_of(paused)) == (SandboxState.PAUSED, PauseKind.FILES)
        assert first.calls[-3:] == ["kill", "thaw", "keep_disk"]
        assert first.is_released
        (entry,) = node.parts.journal.entries().entries
        assert (entry.record, entry.runtime_state) == (paused, {"trees": ["/layer"]})
        running = await node.resume(lifetime_s=500, lifecycle=Lifecycle(wake_s=7))
        assert (running.state, running.pause, running.lifecycle.wake_s) == (SandboxState.RUNNING, None, 7)
        second = node.steps.made["one"]
        assert second is not first
        assert second.envs == ENVS
        assert node.live.find("one").sandbox is cast("Any", second)
        assert node.journaled() is SandboxState.RUNNING
        second.die()
        await ended(node)
        assert node.events.ended[0].reason is EndReason.CRASHED


async def test_variables_are_readable_for_root_alone(tmp_path: Path) -> None:
    """They are in a file of mode 0600, which goes with the sandbox."""
    async with node_in(tmp_path) as node:
        await node.create(envs=ENVS)
        directory = node.parts.journal.directory_of("one")
        assert read_origin(directory).envs == ENVS
        assert (directory / "origin.json").stat().st_mode & 0o777 == 0o600
        await node.handlers.kill(Kill("one"))
        await until(lambda: not directory.exists())


async def test_it_can_be_done_again_and_again(tmp_path: Path) -> None:
    """Five cycles, with both kinds in turn."""
    async with node_in(tmp_path) as node:
        await node.create()
        for number in range(5):
            assert (await node.pause(memory=number % 2 == 1)).state is SandboxState.PAUSED
            assert (await node.resume()).state is SandboxState.RUNNING


async def test_a_frozen_sandbox_can_be_started_anew(tmp_path: Path) -> None:
    """With ``memory`` false a resume gives up its processes. Only if that is all that succeeds, the node tells its peers."""
    async with node_in(tmp_path) as node:
        first = await node.create()
        await node.pause()
        assert (await node.resume(memory=False)).state is SandboxState.RUNNING
        assert first.is_released
        assert first.is_kept
        assert node.events.paused == []
        assert node.steps.made["one"] is not first
        await node.pause()
        node.steps.create_faults.append(IsolationError("no slot"))
        with pytest.raises(IsolationError):
            await node.resume(memory=False)
        assert [one.pause.kind for one in node.events.paused] == [PauseKind.FILES]
        assert node.live.find_any("one").record.is_on_disk


async def test_a_frozen_sandbox_whose_processes_die_keeps_its_files(tmp_path: Path) -> None:
    """It is paused still, with its disk alone, and can be resumed."""
    async with node_in(tmp_path) as node:
        first = await node.create()
        await node.pause()
        first.die()
        await until(lambda: node.events.paused)
        assert kind_of(node.live.find_any("one").record) is PauseKind.FILES
        assert first.is_released
        assert (await node.resume()).state is SandboxState.RUNNING
        assert node.events.ended == []


async def test_a_sandbox_is_kept_as_files_at_its_deadline_if_it_is_to_be(tmp_path: Path) -> None:
    """The node tells its peers so."""
    async with node_in(tmp_path) as node:
        await node.create(lifetime_s=0.05, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES))
        await until(lambda: node.events.paused)
        assert node.events.paused[0].pause.kind is PauseKind.FILES
        assert kind_of(await node.handlers.get(SandboxRef("one"))) is PauseKind.FILES


async def test_its_samples_stay_and_its_processor_time_goes_on(tmp_path: Path) -> None:
    """Those of before can be read while it has no processes; those after follow them."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.handlers.metrics(AskMetrics("one"))
        await node.pause(memory=False)
        kept = await node.handlers.metrics(AskMetrics("one"))
        assert len(kept.samples) == 2
        assert kept.mem_limit_bytes == 512
        await node.resume()
        node.handlers.sampler._interval_s = 0
        after = await node.handlers.metrics(AskMetrics("one"))
        assert after.samples[:2] == kept.samples
        assert after.samples[2].cpu_used_pct > 0


# ---- what fails ----


async def test_a_sandbox_of_unknown_origin_is_not_ended(tmp_path: Path) -> None:
    """An older release made it: a pause that could not be resumed is refused, and it runs on."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        (node.parts.journal.directory_of("one") / "origin.json").unlink()
        with pytest.raises(RuntimeFailedError, match="was made of"):
            await node.pause(memory=False)
        assert node.live.find("one").sandbox is cast("Any", sandbox)
        assert "kill" not in sandbox.calls
        assert node.journaled() is SandboxState.RUNNING
        assert len((await node.handlers.metrics(AskMetrics("one"))).samples) == 1


async def test_a_disk_that_was_not_stored_whole_is_kept(tmp_path: Path) -> None:
    """Its processes are gone: it is paused, and a resume checks the disk."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.keep_faults.append(OSError(5, "input/output error"))
        assert (await node.pause(memory=False)).state is SandboxState.PAUSED
        assert (await node.resume()).state is SandboxState.RUNNING


async def test_processes_that_do_not_end_end_the_sandbox(tmp_path: Path) -> None:
    """It can neither run nor be kept, and its end says why."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.kill_faults.append(RuntimeFailedError("did not end after SIGKILL"))
        with pytest.raises(SandboxNotFoundError):
            await node.pause(memory=False)
        await ended(node)
        assert node.events.ended[0].reason is EndReason.CRASHED
        assert "did not end after SIGKILL" in node.events.ended[0].message


@pytest.mark.parametrize("fault", [IsolationError("a layer of the template is gone"), NoCapacityError("no slot")])
async def test_a_resume_that_fails_leaves_the_disk(tmp_path: Path, fault: Exception) -> None:
    """It stays paused as it was, and can be resumed later."""
    async with node_in(tmp_path) as node:
        await node.create()
        paused = await node.pause(memory=False)
        node.steps.create_faults += [fault, fault]
        with pytest.raises(type(fault), match=str(fault)):
            await node.resume()
        assert node.live.find_any("one").record == paused
        (entry,) = node.parts.journal.entries().entries
        assert (entry.record, entry.runtime_state) == (paused, {"trees": ["/layer"]})
        node.steps.create_faults.clear()
        assert (await node.resume()).state is SandboxState.RUNNING


async def test_a_start_command_that_fails_does_not_lock_the_files_up(tmp_path: Path) -> None:
    """The sandbox runs, and its log says what failed."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        ready, writer = os.pipe()
        os.close(writer)

        def starts_badly(sandbox: PausableSandbox) -> None:
            sandbox.starting = ready
            sandbox.start_faults.append(StartFailedError("exit status 1"))

        node.steps.on_made = starts_badly
        assert (await node.resume()).state is SandboxState.RUNNING
        assert [(note.event, note.fields["error"]) for note in node.events.notes] == [("start.failed", "exit status 1")]
        os.close(ready)


async def test_a_start_that_cannot_be_recorded_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the server is full: the new processes are ended, and the disk is kept."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        write = node.parts.journal.write

        def write_or_fail(record: SandboxRecord, *args: object, **options: bool) -> None:
            if record.state is SandboxState.RUNNING:
                raise OSError(28, "no space left")
            write(record, *args, **options)  # type: ignore[arg-type]  # passed on as they are

        monkeypatch.setattr(node.parts.journal, "write", write_or_fail)
        with pytest.raises(OSError, match="no space left"):
            await node.resume()
        monkeypatch.undo()
        assert node.steps.made["one"].is_released
        assert node.steps.made["one"].is_kept
        assert node.live.find_any("one").record.state is SandboxState.PAUSED
        assert (await node.resume()).state is SandboxState.RUNNING


# ---- kills ----


async def test_a_kill_of_a_kept_disk_removes_it(tmp_path: Path) -> None:
    """Nothing is left, and its end is told."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        assert await within(node.handlers.kill(Kill("one")))
        assert [one.reason for one in node.events.ended] == [EndReason.KILLED]
        await until(lambda: not node.live.is_taken("one"))
        assert node.parts.journal.entries() == Found()
        assert not node.parts.journal.directory_of("one").exists()


async def test_a_kill_while_the_disk_is_closed_ends_the_sandbox(tmp_path: Path) -> None:
    """It waits until the disk is closed, and removes it."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.may_keep.clear()
        pause = asyncio.create_task(node.pause(memory=False))
        assert await asyncio.to_thread(sandbox.keeping.wait, 5)
        kill = asyncio.create_task(node.handlers.kill(Kill("one")))
        await turns()
        assert not kill.done()
        sandbox.may_keep.set()
        assert await within(kill)
        with pytest.raises(SandboxNotFoundError):
            await pause
    assert node.parts.journal.entries() == Found()


async def test_a_kill_does_not_wait_for_a_start(tmp_path: Path) -> None:
    """It kills the first process, so that the start on the kept disk fails, and removes the disk."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        node.steps.may_create.clear()
        resume = asyncio.create_task(node.resume())
        assert await asyncio.to_thread(node.steps.has_started.wait, 5)
        assert await within(node.handlers.kill(Kill("one")))
        with pytest.raises(SandboxNotFoundError):
            await resume
    assert node.parts.journal.entries() == Found()


async def test_a_kill_does_not_wait_for_a_start_command(tmp_path: Path) -> None:
    """The sandbox that has been started is killed and released."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        ready, writer = os.pipe()

        def waits(sandbox: PausableSandbox) -> None:
            sandbox.starting = ready

        node.steps.on_made = waits
        resume = asyncio.create_task(node.resume())
        await until(lambda: node.live.find_any("one").held)
        kill = asyncio.create_task(node.handlers.kill(Kill("one")))
        await until(lambda: node.steps.made["one"].is_killed)
        os.close(writer)  # as the kernel does when the processes are gone
        assert await within(kill)
        with pytest.raises(SandboxNotFoundError):
            await resume
        await until(lambda: node.steps.made["one"].is_released)
        os.close(ready)
    assert node.parts.journal.entries() == Found()


async def test_a_kept_disk_ages_out(tmp_path: Path) -> None:
    """As a frozen sandbox does."""
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, paused_s=0.2)) as node:
        await node.create()
        await node.pause(memory=False)
        await ended(node)
        assert node.events.ended[0].reason is EndReason.PAUSED_TOO_LONG


async def test_a_stop_that_ends_sandboxes_leaves_kept_disks(tmp_path: Path) -> None:
    """They hold nothing of the host."""
    async with node_in(tmp_path) as node:
        await node.create("one")
        await node.create("two")
        await node.pause("one", memory=False)
        await node.pause("two")
    assert [entry.record.sandbox_id for entry in node.parts.journal.entries().entries] == ["one"]


async def test_memory_can_be_given_up(tmp_path: Path) -> None:
    """Of a sandbox that runs, and of one that is frozen; one that has none stays as it is."""
    async with node_in(tmp_path) as node:
        await node.create("one")
        await node.create("two")
        await node.pause("two")
        for name in ("one", "two", "two"):
            assert kind_of(await node.handlers.pausing.save(name, memory=False)) is PauseKind.FILES


# ---- a supervisor that comes back ----


async def left_behind(directory: Path, state: SandboxState, kind: PauseKind) -> PausableSandbox:
    """A sandbox whose supervisor died when the journal had it in that state."""
    node = PausableNode(directory)
    sandbox = await node.create()
    frozen = await node.pause()
    assert frozen.pause is not None
    pause = dataclasses.replace(frozen.pause, kind=kind)
    record = dataclasses.replace(frozen, state=state, pause=pause, end_at=time.time())
    Journal(directory / "j", directory / "copies").write(record, sandbox.state())
    node.live.stop_timers()
    await node.parts.supervisor.stop(keep_sandboxes=True)
    asyncio.get_running_loop().remove_reader(sandbox.pidfd)
    sandbox.thaw()
    return sandbox


IN_BETWEEN = (SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING)


@pytest.mark.parametrize("state", IN_BETWEEN)
@pytest.mark.parametrize("lives", [True, False])
async def test_a_files_pause_is_completed_after_a_restart(tmp_path: Path, state: SandboxState, lives: bool) -> None:
    """Whether its processes, or those of the start that was cut off, live or not: it is paused with its disk, and can be resumed."""
    sandbox = await left_behind(tmp_path, state, PauseKind.FILES)
    host = PausableHost({"one": sandbox} if lives else {}, disks={"one"})
    async with node_in(tmp_path, host=host) as node:
        await node.parts.supervisor.start()
        record = node.live.find_any("one").record
        assert (record.state, kind_of(record)) == (SandboxState.PAUSED, PauseKind.FILES)
        assert sandbox.is_released is lives
        (entry,) = node.parts.journal.entries().entries
        assert (entry.record, entry.runtime_state) == (record, {"trees": ["/layer"]})
        assert (await node.resume()).state is SandboxState.RUNNING


@pytest.mark.parametrize("state", IN_BETWEEN)
async def test_a_frozen_sandbox_without_processes_is_kept_after_a_restart(tmp_path: Path, state: SandboxState) -> None:
    """The host was restarted: its files are there."""
    await left_behind(tmp_path, state, PauseKind.FROZEN)
    async with node_in(tmp_path, host=PausableHost(disks={"one"})) as node:
        await node.parts.supervisor.start()
        assert kind_of(node.live.find_any("one").record) is PauseKind.FILES
        assert (await node.resume()).state is SandboxState.RUNNING
        assert node.handlers.ends.find(["one"]) == []


async def test_a_paused_sandbox_whose_disk_is_gone_has_ended(tmp_path: Path) -> None:
    """With the true reason, not as expired."""
    await left_behind(tmp_path, SandboxState.PAUSED, PauseKind.FILES)
    async with node_in(tmp_path, host=PausableHost()) as node:
        await node.parts.supervisor.start()
        assert node.live.records() == []
        assert node.handlers.ends.find(["one"])[0].reason is EndReason.CRASHED


async def test_a_kept_disk_that_is_out_of_reach_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has it open still, or the host's disk is full: it is paused, and a resume looks again."""
    await left_behind(tmp_path, SandboxState.PAUSED, PauseKind.FILES)
    host = PausableHost(disks={"one"})

    def fail(*_: object, **_options: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(host, "find_disk", fail)
    async with node_in(tmp_path, host=host) as node:
        with monkeypatch.context() as patch:
            patch.setattr(node.parts.journal, "write", fail)
            await node.parts.supervisor.start()
        assert node.live.find_any("one").record.is_on_disk
        assert (await node.resume()).state is SandboxState.RUNNING


async def test_an_end_of_a_kept_disk_is_completed_after_a_restart(tmp_path: Path) -> None:
    """The kill was decided before the crash: the disk is removed."""
    await left_behind(tmp_path, SandboxState.PAUSED, PauseKind.FILES)
    host = PausableHost(disks={"one"})
    (tmp_path / "ended.jsonl").write_text('{"sandbox_id": "one", "reason": "killed", "message": "", "at": 1.0}\n')
    async with node_in(tmp_path, host=host) as node:
        await node.parts.supervisor.start()
        assert node.live.records() == []
    assert node.parts.journal.entries() == Found()


async def test_a_restart_does_not_shorten_or_lengthen_a_pause(tmp_path: Path) -> None:
    """The time that a sandbox may stay paused counts from the beginning of the pause."""
    await left_behind(tmp_path, SandboxState.PAUSED, PauseKind.FILES)
    limits = dataclasses.replace(WIDE, paused_s=0.3)
    async with node_in(tmp_path, host=PausableHost(disks={"one"}), limits=limits) as node:
        await node.parts.supervisor.start()
        began = node.parts.journal.entries().entries[0].record.pause
        await ended(node)
        assert began is not None
        assert node.events.ended[0].reason is EndReason.PAUSED_TOO_LONG
        assert began.at + 0.3 <= node.events.ended[0].at <= time.time()


async def test_memory_that_cannot_be_given_up_is_kept(tmp_path: Path) -> None:
    """A frozen sandbox that cannot be started anew stays frozen, and still ages out."""
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, paused_s=0.3)) as node:
        sandbox = await node.create()
        await node.pause()
        (node.parts.journal.directory_of("one") / "origin.json").unlink()
        with pytest.raises(RuntimeFailedError, match="was made of"):
            await node.resume(memory=False)
        assert sandbox.is_frozen
        assert node.live.find_any("one").record.is_frozen
        await ended(node)
        assert node.events.ended[0].reason is EndReason.PAUSED_TOO_LONG


async def test_slow_pauses_delay_no_kill_of_others(tmp_path: Path) -> None:
    """Many that are closed or frozen at a time leave threads for what must be quick; each has its turn."""
    names = [f"slow{number}" for number in range(40)]
    async with node_in(tmp_path) as node:
        slow = [await node.create(name) for name in names]
        await node.create("other")
        for sandbox in slow:
            sandbox.may_keep.clear()
            sandbox.may_freeze.clear()
        pauses = [asyncio.create_task(node.pause(name, memory=number % 2 == 0)) for number, name in enumerate(names)]
        await until(lambda: sum(sandbox.keeping.is_set() for sandbox in slow) >= kept_disks._AT_A_TIME)
        await until(lambda: sum(sandbox.freezing.is_set() for sandbox in slow) >= pausing._FREEZES)
        await asyncio.wait_for(node.handlers.kill(Kill("other")), 5)
        assert not any(pause.done() for pause in pauses)
        for sandbox in slow:
            sandbox.may_keep.set()
            sandbox.may_freeze.set()
        kinds = [kind_of(record) for record in await within(asyncio.gather(*pauses))]
        assert kinds == [PauseKind.FROZEN, PauseKind.FILES] * 20
