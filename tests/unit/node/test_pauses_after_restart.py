"""A supervisor that comes back finds paused sandboxes paused, and completes the pauses and resumes that its death cut off."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from cloister.errors import DeadlineError
from cloister.model.sandbox import EndReason, SandboxState
from cloister.node.journal import Found, Journal
from cloister.nodewire.requests import SandboxRef
from framework.pausable import PausableHost, PausableNode, PausableSandbox, node_in


async def left_behind(directory: Path, state: SandboxState) -> PausableSandbox:
    """A sandbox whose supervisor died when the journal had it in that state."""
    async with asyncio.timeout(10):
        node = PausableNode(directory)
        sandbox = await node.create()
        record = await node.pause() if state is not SandboxState.RUNNING else node.live.find("one").record
        entry = node.parts.journal.entries().entries[0]
        if state is SandboxState.PAUSING:
            node.parts.journal._states.clear()
            sandbox.thaw()
        if state in (SandboxState.PAUSING, SandboxState.RESUMING):
            node.parts.journal.write(dataclasses.replace(record, state=state), entry.runtime_state)
        if state is SandboxState.PAUSED:
            node.parts.journal.write(dataclasses.replace(record, end_at=time.time()), entry.runtime_state)
        node.live.stop_timers()
        await node.parts.supervisor.stop(keep_sandboxes=True)
    asyncio.get_running_loop().remove_reader(sandbox.pidfd)
    return sandbox


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SandboxState.PAUSING, SandboxState.PAUSED),
        (SandboxState.PAUSED, SandboxState.PAUSED),
        (SandboxState.RESUMING, SandboxState.RUNNING),
    ],
)
async def test_a_supervisor_that_comes_back_completes_the_change(tmp_path: Path, before: SandboxState, after: SandboxState) -> None:
    """A paused sandbox stays paused, also beyond its deadline; one that was to be paused is; one that was to run runs."""
    sandbox = await left_behind(tmp_path, before)
    sandbox.is_frozen = before is not SandboxState.PAUSING
    async with node_in(tmp_path, host=PausableHost({"one": sandbox})) as node:
        await node.parts.supervisor.start()
        assert node.live.find_any("one").record.state is after
        assert node.journaled() is after
        assert sandbox.is_frozen is (after is SandboxState.PAUSED)
        if after is SandboxState.PAUSED:
            await node.resume()
        assert not sandbox.is_frozen
        assert node.live.find("one").record.pause is None


async def test_a_pause_that_cannot_be_completed_did_not_happen(tmp_path: Path) -> None:
    """After a restart the sandbox runs, as before the pause."""
    sandbox = await left_behind(tmp_path, SandboxState.PAUSING)
    sandbox.freeze_faults.append(DeadlineError("it would not stand still"))
    async with node_in(tmp_path, host=PausableHost({"one": sandbox})) as node:
        await node.parts.supervisor.start()
        assert node.live.find("one").record.pause is None
        assert node.journaled() is SandboxState.RUNNING


async def test_a_paused_sandbox_that_cannot_be_kept_frozen_keeps_its_files(tmp_path: Path) -> None:
    """It must not run beyond its deadline, and it must not be lost."""
    sandbox = await left_behind(tmp_path, SandboxState.PAUSED)
    sandbox.freeze_faults.append(OSError(5, "no freezer"))
    async with node_in(tmp_path, host=PausableHost({"one": sandbox})) as node:
        await node.parts.supervisor.start()
        assert node.live.find_any("one").record.is_on_disk
        assert sandbox.is_released
        assert (await node.resume()).state is SandboxState.RUNNING


@pytest.mark.parametrize("before", [SandboxState.PAUSING, SandboxState.RESUMING])
async def test_a_full_disk_at_a_start_ends_no_sandbox(tmp_path: Path, before: SandboxState, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is completed, though the journal cannot say so; the next start completes it again."""
    sandbox = await left_behind(tmp_path, before)
    async with node_in(tmp_path, host=PausableHost({"one": sandbox})) as node:

        def fail(*_: object, **_options: object) -> None:
            raise OSError(28, "no space left")

        with monkeypatch.context() as patch:
            patch.setattr(node.parts.journal, "write", fail)
            await node.parts.supervisor.start()
        assert node.live.records() != []
        assert node.handlers.ends.find(["one"]) == []


async def test_a_paused_sandbox_that_is_gone_has_crashed(tmp_path: Path) -> None:
    """Not expired, though its deadline is over."""
    sandbox = await left_behind(tmp_path, SandboxState.PAUSED)
    sandbox.die()
    async with node_in(tmp_path, host=PausableHost()) as node:
        await node.parts.supervisor.start()
        (found,) = node.handlers.ends.find(["one"])
        assert found.reason is EndReason.CRASHED
    assert node.parts.journal.entries() == Found()


async def test_the_journal_knows_which_groups_stay_frozen(tmp_path: Path) -> None:
    """Those of sandboxes that are paused, or about to be; no group that a snapshot froze."""
    async with node_in(tmp_path) as node:
        await node.create("runs")
        await node.create("paused")
        await node.pause("paused")
        await node.create("resumed")
        await node.pause("resumed")
        await node.resume("resumed")
        journal = Journal(tmp_path / "j", tmp_path / "copies")
        assert journal.frozen() == {"paused"}
        pausing_one = dataclasses.replace((await node.handlers.get(SandboxRef("paused"))), state=SandboxState.PAUSING)
        Journal(tmp_path / "j", tmp_path / "copies").write(pausing_one, {})
        assert journal.frozen() == {"paused"}
