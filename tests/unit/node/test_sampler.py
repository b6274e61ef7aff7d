"""The sampler: what it notes, what it spares, what it survives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cloister.errors import IsolationError
from cloister.model.node import SandboxNote, SandboxUsage
from cloister.network.refusals import Refusal, Target
from cloister.node.sampler import Sampler
from framework.node_parts import RecordedEvents
from framework.waiting import turns

ID = "a" * 20
USAGE = SandboxUsage(
    cpu_used_s=1,
    mem_used_bytes=2,
    mem_cache_bytes=3,
    mem_limit_bytes=512 << 20,
    oom_kills=0,
    pids=1,
    pids_refused=0,
    disk_used_bytes=1 << 20,
    disk_total_bytes=1 << 30,
    inodes_free=10,
)


@dataclass
class Source:
    """A sandbox whose numbers are set by hand."""

    now: SandboxUsage = USAGE
    whole_reads: int = 0
    fault: OSError | None = None
    network_slot: int = 1

    def usage(self) -> SandboxUsage:
        """All of it."""
        if self.fault is not None:
            raise self.fault
        self.whole_reads += 1
        return self.now

    def cpu_used_s(self) -> float:
        """The cheap part."""
        if self.fault is not None:
            raise self.fault
        return self.now.cpu_used_s


@dataclass
class Bench:
    """A sampler that takes a sample when told."""

    sampler: Sampler
    source: Source
    notes: list[SandboxNote]

    async def sample(self, **changed: float) -> list[str]:
        """Change the numbers (which takes processor time), sample, and return the new notes' events."""
        self.source.now = replace(self.source.now, cpu_used_s=self.source.now.cpu_used_s + 1, **changed)  # type: ignore[arg-type]  # fields by name
        before = len(self.notes)
        await asyncio.sleep(0.05)
        return [note.event for note in self.notes[before:]]


@pytest.fixture
async def bench() -> Bench:
    """A sampler over one sandbox, at a hundred samples a second."""

    async def here(work: Callable[[], None]) -> None:
        work()

    events = RecordedEvents()
    made = Bench(Sampler(events=events, in_thread=here, take_refusals=list, interval_s=0.01), Source(), events.notes)
    made.sampler.watch(ID, made.source, time.time() - 10)
    return made


async def test_limits_are_noted_once_for_each_time(bench: Bench) -> None:
    """Killed for memory, refused processes and a full disk are noted when they happen, with numbers, and not again while they last."""
    running = asyncio.create_task(bench.sampler.run())
    try:
        assert await bench.sample() == []
        assert await bench.sample(oom_kills=2) == ["memory.exhausted"]
        assert bench.notes[-1].fields == {"killed": 2, "limit_mib": 512}
        assert await bench.sample(pids_refused=5) == ["processes.exhausted"]
        assert await bench.sample(disk_used_bytes=(1 << 30) - 4096) == ["disk.exhausted"]
        assert await bench.sample() == []
        assert await bench.sample(disk_used_bytes=1 << 20) == []
        assert await bench.sample(inodes_free=0) == ["disk.exhausted"]
    finally:
        running.cancel()


async def test_adopted_sandbox_is_not_charged_with_its_past(bench: Bench) -> None:
    """Events before the first sample are not reported as new."""
    bench.source.now = replace(USAGE, oom_kills=3, pids_refused=4)
    await bench.sampler.metrics(ID, None, None, None)
    assert bench.notes == []


async def test_idle_sandbox_costs_one_short_read(bench: Bench) -> None:
    """A sandbox that has not run is not read whole again, and still has samples."""
    running = asyncio.create_task(bench.sampler.run())
    try:
        await asyncio.sleep(0.2)
    finally:
        running.cancel()
    assert bench.source.whole_reads == 1
    assert len((await bench.sampler.metrics(ID, None, None, None)).samples) > 5


async def test_fresh_sandbox_is_sampled_when_asked(bench: Bench) -> None:
    """A client that asks before the first round gets a sample all the same, with its bounds."""
    found = await bench.sampler.metrics(ID, None, None, 1)
    assert [sample.mem_used_bytes for sample in found.samples] == [2]
    assert (found.mem_limit_bytes, found.disk_total_bytes) == (512 << 20, 1 << 30)
    assert found.samples[0].cpu_used_pct == pytest.approx(10, abs=1)


async def test_last_look_finds_what_ended_it(bench: Bench) -> None:
    """Events between the last sample and the end are noted before the sandbox is forgotten."""
    await bench.sampler.metrics(ID, None, None, None)
    bench.source.now = replace(USAGE, cpu_used_s=2, oom_kills=1)
    await bench.sampler.forget(ID)
    assert [note.event for note in bench.notes] == ["memory.exhausted"]
    with pytest.raises(KeyError):
        await bench.sampler.metrics(ID, None, None, None)


async def test_sandbox_that_cannot_be_read_does_not_stop_the_others(bench: Bench) -> None:
    """One whose control group is gone is passed over."""
    bench.sampler.watch("b" * 20, Source(fault=FileNotFoundError("gone")), time.time())
    running = asyncio.create_task(bench.sampler.run())
    try:
        assert await bench.sample(oom_kills=1) in (["memory.exhausted"], [])
        assert (await bench.sampler.metrics("b" * 20, None, None, None)).samples == ()
        assert (await bench.sampler.metrics(ID, None, None, None)).samples
    finally:
        running.cancel()


async def here(work: Callable[[], None]) -> None:
    """Does the work at once."""
    work()


async def test_refusals_are_read_once_for_all_and_noted_for_each() -> None:
    """One read an interval serves all sandboxes. Each note goes to the sandbox with that slot; unknown slots make no note."""
    reads: list[int] = []
    waiting = [Refusal(slot, Target("10.0.0.1", "tcp", slot, "not_public"), slot) for slot in (1, 2, 9)]

    def take() -> list[Refusal]:
        found = list(waiting)
        reads.append(len(found))
        waiting.clear()
        return found

    events = RecordedEvents()
    sampler, notes = Sampler(events=events, in_thread=here, take_refusals=take, interval_s=60), events.notes
    for slot, name in ((1, "a"), (2, "b")):
        sampler.watch(name * 20, Source(network_slot=slot), time.time())
    running = asyncio.create_task(sampler.run())
    await turns()
    running.cancel()
    assert reads == [3]
    assert [(note.sandbox_id[0], note.event, note.fields["port"], note.fields["count"]) for note in notes] == [
        ("a", "network.refused", 1, 1),
        ("b", "network.refused", 2, 2),
    ]
    waiting.append(Refusal(2, None, 7))
    waiting.append(Refusal(1, Target("10.0.0.1", "tcp", 1, "not_public"), 5))
    await sampler.forget("a" * 20)
    assert reads == [3, 2]
    assert [note.fields["count"] for note in notes[2:]] == [5], "what it has to tell is told before it is forgotten"
    await sampler.forget("b" * 20)
    assert notes[3].event == "network.refused_others", "what the look for another found is kept"


async def test_rules_that_cannot_be_read_do_not_stop_the_sampler() -> None:
    """A fault of the network's reading costs that reading only."""

    def take() -> list[Refusal]:
        raise IsolationError("no answer", step="nftables")

    sampler = Sampler(events=RecordedEvents(), in_thread=here, take_refusals=take, interval_s=0.01)
    sampler.watch(ID, Source(), time.time() - 10)
    running = asyncio.create_task(sampler.run())
    async with asyncio.timeout(20):
        while len((await sampler.metrics(ID, None, None, None)).samples) < 2:
            assert not running.done()
            await asyncio.sleep(0.01)
    running.cancel()
