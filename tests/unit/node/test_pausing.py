"""How the supervisor pauses and resumes sandboxes: one change at a time, a kill wins, and the journal has every state."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NoCapacityError,
    QuotaExceededError,
    SandboxNotFoundError,
)
from cloister.model.lifecycle import Lifecycle, PauseKind, TimeoutAction
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxState
from cloister.node import pausing
from cloister.node.journal import Found
from cloister.nodewire.requests import AskMetrics, Kill, ListSandboxes, SandboxRef, SetDeadline, TakeSnapshot
from cloister.runtime.base import RuntimeCapabilities
from framework.node_parts import WIDE
from framework.pausable import ended, node_in, reached, until, within
from framework.waiting import turns

# ---- the two changes ----


async def test_a_pause_freezes_and_a_resume_thaws(tmp_path: Path) -> None:
    """The answers say so, and so does the journal; a resume begins a new run with a new deadline."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        before = node.live.find("one").record
        paused = await node.pause()
        assert sandbox.is_frozen
        assert (paused.state, paused.end_at) == (SandboxState.PAUSED, before.end_at)
        assert paused.pause is not None
        assert paused.pause.kind is PauseKind.FROZEN
        assert node.journaled() is SandboxState.PAUSED
        running = await node.resume(lifetime_s=500, lifecycle=Lifecycle(wake_s=7))
        assert not sandbox.is_frozen
        assert (running.state, running.pause, running.lifecycle.wake_s) == (SandboxState.RUNNING, None, 7)
        assert running.started_at > before.started_at
        assert running.end_at > before.end_at + 400
        assert node.live.find("one").record == running
        assert node.journaled() is SandboxState.RUNNING


async def test_both_can_be_repeated(tmp_path: Path) -> None:
    """A paused sandbox is not paused again, and a running one keeps its deadline."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        assert await node.pause() == await node.pause()
        running = await node.resume()
        assert await node.resume(lifetime_s=1000) == running
        assert sandbox.calls.count("freeze") == sandbox.calls.count("thaw") == 1


async def test_equal_changes_at_a_time_are_one(tmp_path: Path) -> None:
    """Five pauses have one outcome, and five resumes too."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.may_freeze.clear()
        pauses = [asyncio.create_task(node.pause()) for _ in range(5)]
        await turns()
        sandbox.may_freeze.set()
        assert len({record.pause for record in await asyncio.gather(*pauses)}) == 1
        resumes = await asyncio.gather(*(node.resume() for _ in range(5)))
        assert len({record.started_at for record in resumes}) == 1
        assert sandbox.calls.count("freeze") == sandbox.calls.count("thaw") == 1


async def test_a_resume_waits_for_the_pause_under_way(tmp_path: Path) -> None:
    """It then brings the sandbox back."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.may_freeze.clear()
        pause = asyncio.create_task(node.pause())
        await reached(node, SandboxState.PAUSING)
        resume = asyncio.create_task(node.resume())
        await turns()
        assert not resume.done()
        sandbox.may_freeze.set()
        assert (await within(resume)).state is SandboxState.RUNNING
        assert (await pause).state is SandboxState.PAUSED
        assert not sandbox.is_frozen


async def test_a_caller_that_goes_away_does_not_stop_a_pause(tmp_path: Path) -> None:
    """The pause goes on to its end."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.may_freeze.clear()
        pause = asyncio.create_task(node.pause())
        await reached(node, SandboxState.PAUSING)
        pause.cancel()
        sandbox.may_freeze.set()
        await reached(node, SandboxState.PAUSED)


async def test_a_pause_that_fails_leaves_the_sandbox_running(tmp_path: Path) -> None:
    """It keeps its deadline, and the journal says that it runs."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.freeze_faults.append(DeadlineError("it would not stand still"))
        with pytest.raises(DeadlineError, match="would not stand still"):
            await node.pause()
        record = node.live.find("one").record
        assert (record.state, record.pause) == (SandboxState.RUNNING, None)
        assert node.journaled() is SandboxState.RUNNING
        timer = node.live.find("one").timer
        assert timer is not None
        assert not timer.cancelled()
        await node.pause()
        assert sandbox.is_frozen


async def test_a_resume_that_fails_leaves_it_paused(tmp_path: Path) -> None:
    """With its deadline and choices of before, and frozen."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        paused = await node.pause()
        sandbox.thaw_faults.append(OSError(5, "no thaw"))
        with pytest.raises(OSError, match="no thaw"):
            await node.resume(lifecycle=Lifecycle(wake_s=7))
        assert node.live.find_any("one").record == paused
        assert sandbox.is_frozen
        assert node.journaled() is SandboxState.PAUSED
        assert (await node.resume()).state is SandboxState.RUNNING


async def test_a_resume_is_refused_while_the_host_has_no_memory(tmp_path: Path) -> None:
    """The sandbox stays paused, and runs when there is some."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause()

        node.parts.reserve.bytes = 1 << 60
        with pytest.raises(NoCapacityError, match="memory available"):
            await node.resume()
        node.parts.reserve.bytes = 0
        assert node.live.find_any("one").record.is_frozen
        assert (await node.resume()).state is SandboxState.RUNNING


async def test_what_a_runtime_cannot_do_is_refused(tmp_path: Path) -> None:
    """The sandbox runs on."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.capabilities = RuntimeCapabilities(freeze=True)
        with pytest.raises(InvalidRequestError, match="keep the disk"):
            await node.pause(memory=False)
        assert node.live.find("one").record.state is SandboxState.RUNNING


# ---- ends ----


async def test_a_kill_of_a_paused_sandbox_ends_it(tmp_path: Path) -> None:
    """Though it is frozen; nothing of it is left."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        await node.pause()
        assert await within(node.handlers.kill(Kill("one")))
        assert sandbox.is_killed
        with pytest.raises(SandboxNotFoundError):
            await node.resume()
        assert not await node.handlers.kill(Kill("one"))
    assert node.parts.journal.entries() == Found()


@pytest.mark.parametrize("at", ["pause", "resume"])
async def test_a_kill_wins_over_a_change(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the change, which finds out; a freeze that comes after the kill's thaw keeps nothing alive."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        if at == "pause":
            sandbox.may_freeze.clear()
            change = asyncio.create_task(node.pause())
            assert await asyncio.to_thread(sandbox.freezing.wait, 5)
        else:
            await node.pause()
            may_go = threading.Event()
            monkeypatch.setattr(sandbox, "state", lambda: {"waited": may_go.wait(5)})
            change = asyncio.create_task(node.resume())
            await reached(node, SandboxState.RESUMING)
        kill = asyncio.create_task(node.handlers.kill(Kill("one")))
        if at == "resume":
            await turns()
            may_go.set()
        assert await within(kill)
        with pytest.raises(SandboxNotFoundError):
            await within(change)
        assert [one.reason for one in node.events.ended] == [EndReason.KILLED]
    assert sandbox.is_released
    assert node.parts.journal.entries() == Found()


async def test_a_paused_sandbox_whose_processes_die_has_crashed(tmp_path: Path) -> None:
    """The node notices by itself, where it cannot keep the disk."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.capabilities = RuntimeCapabilities(freeze=True)
        await node.pause()
        sandbox.why_ended = " (the server ran out of disk space)"
        sandbox.die()
        await ended(node)
        assert (node.events.ended[0].reason, node.events.ended[0].message) == (EndReason.CRASHED, "the server ran out of disk space")


# ---- what a paused sandbox answers ----


async def test_a_paused_sandbox_is_listed_and_says_that_it_is_paused(tmp_path: Path) -> None:
    """It is listed and read; what needs a running one is a conflict that names the remedy."""
    async with node_in(tmp_path) as node:
        await node.create()
        paused = await node.pause()
        assert (await node.handlers.list(ListSandboxes())).sandboxes == (paused,)
        assert await node.handlers.get(SandboxRef("one")) == paused
        assert node.live.ids() == {"one"}
        with pytest.raises(ConflictError, match=r"sandbox one is paused \(resume it"):
            await node.handlers.dial(SandboxRef("one"))
        with pytest.raises(ConflictError, match="is paused"):
            await node.handlers.set_deadline(SetDeadline("one", time.time() + 5))
        with pytest.raises(SandboxNotFoundError):
            await node.pause("two")


async def test_a_paused_sandbox_is_not_sampled(tmp_path: Path) -> None:
    """The samples of before can be read, and there are new ones after a resume."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        ask = AskMetrics("one")
        before = await node.handlers.metrics(ask)
        assert len(before.samples) == 1
        await node.pause()
        asked = sandbox.calls.count("usage")
        sampler = node.handlers.sampler
        sampler._interval_s = 0.001
        sampling = asyncio.create_task(sampler.run())
        await turns()
        assert (await node.handlers.metrics(ask)).samples == before.samples
        assert sandbox.calls.count("usage") == asked
        await node.resume()
        await until(lambda: len(sampler._watched["one"].ring.samples()) > 2)
        sampling.cancel()


class SlowSnapshots:
    """Takes snapshots for as long as the test lets it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.began = threading.Event()

    def of(self, *_: object) -> Any:
        """See :class:`Snapshots`."""
        self.began.set()
        assert self.may_end.wait(10)
        return cast("Any", "taken")


async def test_a_pause_waits_for_a_snapshot(tmp_path: Path) -> None:
    """The snapshot is whole; the sandbox is paused afterwards."""
    snapshots = SlowSnapshots()
    async with node_in(tmp_path, snapshots=snapshots) as node:
        sandbox = await node.create()
        ask = TakeSnapshot("one", "b", "t", "n")
        taking = asyncio.create_task(node.handlers.snapshot(ask))
        assert await asyncio.to_thread(snapshots.began.wait, 5)
        pause = asyncio.create_task(node.pause())
        await turns()
        assert not pause.done()
        assert "freeze" not in sandbox.calls
        with pytest.raises(ConflictError, match="being paused"):
            await node.handlers.snapshot(ask)
        snapshots.may_end.set()
        assert (await within(pause)).is_frozen
        assert await taking == cast("Any", "taken")
        with pytest.raises(ConflictError, match="paused"):
            await node.handlers.snapshot(ask)


async def test_a_capture_with_memory_is_refused_by_a_node_that_cannot(tmp_path: Path) -> None:
    """The error names the capability, and the sandbox is not touched."""
    snapshots = SlowSnapshots()
    async with node_in(tmp_path, snapshots=snapshots) as node:
        sandbox = await node.create()
        sandbox.capabilities = RuntimeCapabilities(freeze=True)
        with pytest.raises(InvalidRequestError, match="checkpoint"):
            await node.handlers.snapshot(TakeSnapshot("one", "b", "t", "n", memory=True))
        assert not snapshots.began.is_set()


# ---- time ----


async def test_a_paused_sandbox_outlives_its_deadline(tmp_path: Path) -> None:
    """Only the longest time for a pause ends it, with a reason of its own."""
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, paused_s=0.3)) as node:
        await node.create(lifetime_s=0.1)
        paused = await node.pause()
        assert paused.pause is not None
        await asyncio.sleep(max(0.0, paused.end_at + 0.05 - time.time()))
        assert node.live.records() == [paused]
        await ended(node)
        assert node.events.ended[0].reason is EndReason.PAUSED_TOO_LONG
        assert "paused_retention_s" in node.events.ended[0].message
        assert node.events.ended[0].at >= paused.pause.at + 0.3


async def test_a_sandbox_is_paused_at_its_deadline_if_it_is_to_be(tmp_path: Path) -> None:
    """The node says so to its peers, and does it again after a resume; set_deadline with a time in the past does it at once."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create(lifetime_s=0.05, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        await reached(node, SandboxState.PAUSED)
        assert sandbox.is_frozen
        await turns(3)
        assert [(one.sandbox_id, one.pause.kind) for one in node.events.paused] == [("one", PauseKind.FROZEN)]
        await node.resume()
        await node.handlers.set_deadline(SetDeadline("one", time.time() - 1))
        await reached(node, SandboxState.PAUSED)
        await turns(3)
        assert len(node.events.paused) == 2
        assert node.events.ended == []


async def test_a_deadline_that_was_moved_pauses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause at the deadline that failed is not tried again when the sandbox has got more time."""
    monkeypatch.setattr(pausing, "_RETRY_S", (0.05,))
    async with node_in(tmp_path) as node:
        sandbox = await node.create(lifetime_s=0.01, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        sandbox.freeze_faults.append(DeadlineError("once"))
        await until(lambda: "freeze" in sandbox.calls)
        await reached(node, SandboxState.RUNNING)
        await node.handlers.set_deadline(SetDeadline("one", time.time() + 60))
        await until(lambda: not node.handlers.pausing._expiring)
        assert node.live.find("one").record.state is SandboxState.RUNNING
        assert (node.events.paused, node.events.ended) == ([], [])


async def test_a_pause_that_joins_one_that_is_called_off_is_made_all_the_same(tmp_path: Path) -> None:
    """The pause at the deadline waits for a snapshot, the sandbox gets more time, and a client asks for a pause."""
    snapshots = SlowSnapshots()
    async with node_in(tmp_path, snapshots=snapshots) as node:
        await node.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        taking = asyncio.create_task(node.handlers.snapshot(TakeSnapshot("one", "b", "t", "n")))
        assert await asyncio.to_thread(snapshots.began.wait, 5)
        await node.handlers.set_deadline(SetDeadline("one", time.time() - 1))
        await until(lambda: node.live.find("one").change is not None)
        await node.handlers.set_deadline(SetDeadline("one", time.time() + 60))
        pause = asyncio.create_task(node.pause())
        await turns()
        snapshots.may_end.set()
        assert (await within(pause)).is_frozen
        await taking


async def test_a_deadline_that_comes_while_another_is_dealt_with_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox got more time, and that was over before the pause at the first deadline had come to its end."""
    async with node_in(tmp_path) as node:
        changes, is_first = node.handlers.pausing, True
        reach = changes._reach

        async def late(*arguments: Any) -> Any:
            nonlocal is_first
            if is_first:
                is_first = False
                await node.handlers.set_deadline(SetDeadline("one", time.time() + 60))
                found = await reach(*arguments)
                await node.handlers.set_deadline(SetDeadline("one", time.time() - 1))
                await turns(3)
                return found
            return await reach(*arguments)

        monkeypatch.setattr(changes, "_reach", late)
        await node.create(lifetime_s=0.01, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        await reached(node, SandboxState.PAUSED)


async def test_no_fault_lets_a_sandbox_live_on_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one of an unexpected kind."""
    monkeypatch.setattr(pausing, "_RETRY_S", (0.001,))
    async with node_in(tmp_path) as node:
        sandbox = await node.create(lifetime_s=0.05, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        sandbox.freeze_faults.append(cast("Any", ValueError("a number that is none")))
        await ended(node)
        assert node.events.ended[0].reason is EndReason.EXPIRED


async def test_a_sandbox_that_cannot_be_paused_at_its_deadline_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some attempts, with a reason that says what failed."""
    monkeypatch.setattr(pausing, "_RETRY_S", (0.001, 0.001))
    async with node_in(tmp_path) as node:
        sandbox = await node.create(lifetime_s=0.2, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
        sandbox.freeze_faults += [DeadlineError("it would not stand still")] * 3
        await ended(node)
        assert node.events.ended[0].reason is EndReason.EXPIRED
        assert "could not be paused: it would not stand still" in node.events.ended[0].message
        assert sandbox.freeze_faults == []


# ---- limits ----


async def test_paused_sandboxes_are_counted_apart(tmp_path: Path) -> None:
    """They do not count for the team's live ones, their own number is bounded, and a resume needs a place among the live ones."""
    limits = dataclasses.replace(WIDE, team_sandboxes=0, team_paused=0)  # with the slack: two of each
    async with node_in(tmp_path, limits=limits) as node:
        for name in ("one", "two"):
            await node.create(name)
            await node.pause(name)
        for name in ("three", "four"):
            await node.create(name)
        with pytest.raises(QuotaExceededError, match="2 paused"):
            await node.pause("three")
        with pytest.raises(QuotaExceededError, match="2 live"):
            await node.resume("one")
        await node.handlers.kill(Kill("three"))
        await node.resume("one")


async def test_the_disks_of_paused_sandboxes_count(tmp_path: Path) -> None:
    """As those of live ones do."""
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, team_disk_mib=2 * Limits().disk_mib)) as node:
        for name in ("one", "two"):
            await node.create(name)
            await node.pause(name)
        with pytest.raises(QuotaExceededError, match="MiB of disk"):
            await node.create("three")


async def test_the_node_counts_frozen_ones_with_its_slots(tmp_path: Path) -> None:
    """A frozen sandbox holds its slot, so a creation finds none, and it needs no other to be resumed."""
    async with node_in(tmp_path, limits=dataclasses.replace(WIDE, sandboxes=1)) as node:
        await node.create()
        await node.pause()
        with pytest.raises(Exception, match="its limit"):
            await node.create("two")
        await node.resume()
