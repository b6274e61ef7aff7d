"""Pauses, resumes, kills and words of the node in any order, with failures and lost answers: at the end both sides say the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.control.pausing import Pausing, Resumption
from cloister.errors import CloisterError, InternalError, NodeUnreachableError
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.node import PausedSandbox
from cloister.model.sandbox import SandboxRecord, SandboxState, transition
from cloister.nodewire.requests import Kill, PauseSandbox, ResumeSandbox, SandboxRef
from framework.pausing_lab import Node, Plane, open_plane
from framework.waiting import until

_WORKERS, _STEPS = 6, 50


class WildNode(Node):
    """A node that takes its time, fails, loses answers, gives up memory at a resume without it, and pauses by itself."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.gate.set()
        self.chance = chance
        self.pausing: Pausing

    async def _disturb(self, error: CloisterError) -> None:
        await asyncio.sleep(self.chance.random() * 0.003)
        if self.chance.random() < 0.1:
            raise error

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """The record, some time later."""
        await asyncio.sleep(self.chance.random() * 0.003)
        return await super().get(request)

    async def kill(self, request: Kill) -> bool:
        """Kill, some time later."""
        await asyncio.sleep(self.chance.random() * 0.003)
        return await super().kill(request)

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """Pause, or do not, or lose the answer."""
        await self._disturb(InternalError("it cannot be frozen"))
        await super().pause(request)
        await self._disturb(NodeUnreachableError("the answer was lost"))
        return self.find(request.sandbox_id)

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """Resume, or do not, or lose the answer."""
        record = self.find(request.sandbox_id)
        if record.pause is not None and record.pause.kind.keeps_memory and not request.memory:
            self._say_paused(record, replace(record.pause, kind=PauseKind.FILES))
        await self._disturb(InternalError("it cannot be started"))
        await super().resume(request)
        await self._disturb(NodeUnreachableError("the answer was lost"))
        return self.find(request.sandbox_id)

    def pause_by_itself(self, sandbox_id: str) -> None:
        """Pause it, if it runs."""
        record = self.live.get(sandbox_id)
        if record is not None and record.state is SandboxState.RUNNING:
            self._say_paused(transition(record, SandboxState.PAUSING), Pause(kind=PauseKind.FROZEN, at=time.time()))

    def _say_paused(self, record: SandboxRecord, pause: Pause) -> None:
        self.live[record.sandbox_id] = replace(record, state=SandboxState.PAUSED, pause=pause)
        self.pausing.paused_by_node(PausedSandbox(sandbox_id=record.sandbox_id, pause=pause))


async def _act(plane: Plane, node: WildNode, sandbox_id: str, chance: random.Random) -> None:
    wish = Resumption(
        timeout_s=chance.choice([1, 60]), memory=chance.random() < 0.6, auto_pause=chance.choice([None, None, True, False])
    )
    match chance.randrange(16):
        case 0 | 1 | 2:
            await plane.pausing.pause("team", sandbox_id, memory=chance.random() < 0.6)
        case 3 | 4:
            await plane.pausing.resume("team", sandbox_id, wish)
        case 5 | 6 | 7:
            await plane.pausing.connect("team", sandbox_id, wish)
        case 8 | 9:
            await plane.pausing.wake(sandbox_id)
        case 10 | 11:
            await plane.pausing.set_timeout("team", sandbox_id, chance.choice([0, 60]))
        case 12 | 13:
            node.pause_by_itself(sandbox_id)
        case 14:
            async with asyncio.timeout(chance.random() * 0.003):  # its caller goes away
                await plane.pausing.connect("team", sandbox_id, wish)
        case _ if chance.random() < 0.05:
            await plane.sandboxes.kill("team", sandbox_id)


@pytest.mark.parametrize("seed", range(10))
async def test_both_sides_agree_at_the_end(tmp_path: Path, seed: int) -> None:
    """No row is stuck, and rows, store and counts are those of the node's sandboxes."""
    chance = random.Random(seed)
    node = WildNode(chance)
    async with open_plane(tmp_path, node) as plane:
        node.pausing = plane.pausing
        actions = (TimeoutAction.PAUSE, TimeoutAction.PAUSE_FILES, TimeoutAction.KILL)
        ids = [await plane.create(lifecycle=Lifecycle(on_timeout=action, wake_s=300)) for action in actions]

        async def work() -> None:
            for _ in range(_STEPS):
                with contextlib.suppress(CloisterError, TimeoutError):
                    await _act(plane, node, chance.choice(ids), chance)
                await asyncio.sleep(0)

        await asyncio.gather(*(work() for _ in range(_WORKERS)))
        await until(lambda: not (plane.pausing._changes or plane.pausing._comparisons))
        await plane.pausing.close()
        rows = {row.sandbox_id: row for row in plane.registry.all_live()}
        assert {key: (row.state, row.pause, row.lifecycle) for key, row in rows.items()} == {
            key: (record.state, record.pause, record.lifecycle) for key, record in node.live.items()
        }
        for key, row in rows.items():
            assert replace(await plane.stored(key), version=row.version) == row
        running = [row for row in rows.values() if row.state is SandboxState.RUNNING]
        placed = [row for row in rows.values() if row.state is SandboxState.PAUSED or row.lifecycle.on_timeout is not TimeoutAction.KILL]
        assert (plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused) == (len(running), len(placed))
