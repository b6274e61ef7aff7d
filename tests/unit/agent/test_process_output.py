"""The log between a process and its readers: order, completeness, bounds."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator

import pytest

from cloister.agent.process.output import STDERR, STDOUT, OutputLog, Reader

MakeLog = Callable[..., OutputLog]


@pytest.fixture
def make_log() -> Iterator[MakeLog]:
    """Make logs; at the end their readers leave, and no file may be left."""
    made: list[OutputLog] = []

    def make(max_spool_bytes: int = 1 << 20, on_room: Callable[[], None] = lambda: None) -> OutputLog:
        made.append(OutputLog(max_spool_bytes, on_room))
        return made[-1]

    yield make
    for log in made:
        for reader in log.places():
            reader.close()
        assert log._spool is None


async def read_all(reader: Reader, *, pause_s: float = 0) -> dict[int, bytes]:
    """Everything to the end, by kind."""
    parts: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
    while chunks := await reader.next():
        for kind, data in chunks:
            parts[kind] += data
        await asyncio.sleep(pause_s)
    return parts


@pytest.mark.parametrize("seed", range(10))
async def test_readers_of_any_pace_get_everything(make_log: MakeLog, seed: int) -> None:
    """Fast, slow and late readers each get all that was written since they came, byte by byte, through memory and file."""
    chance = random.Random(seed)
    log = make_log(64 << 20)
    expected = {STDOUT: b"", STDERR: b""}
    first = log.attach()
    fast = asyncio.ensure_future(read_all(first))
    slow = asyncio.ensure_future(read_all(log.attach(), pause_s=0.001))
    idle = log.attach()
    for _ in range(600):
        kind, data = chance.choice([STDOUT, STDERR]), chance.randbytes(chance.choice([1, 10, 1000, 20000]))
        expected[kind] += data
        log.append(kind, data)
        if chance.random() < 0.2:
            await asyncio.sleep(0)
    log.finish()
    assert await fast == await slow == await read_all(idle) == expected


async def test_memory_stays_small_while_a_reader_sleeps(make_log: MakeLog) -> None:
    """What waits for a reader lies in the file; the memory holds no more than the newest 64 KiB."""
    log = make_log(64 << 20)
    reader = log.attach()
    for i in range(4000):
        log.append(STDOUT, bytes([i % 256]) * 4096)
    assert log._memory_bytes < 70_000
    assert log._spool_bytes > 15 << 20
    log.finish()
    assert (await read_all(reader))[STDOUT] == b"".join(bytes([i % 256]) * 4096 for i in range(4000))
    assert log._spool_bytes == 0


async def test_without_readers_nothing_is_spooled(make_log: MakeLog) -> None:
    """While nobody reads only the newest output is kept, and the next reader is told how much is missing."""
    log = make_log()
    for i in range(1000):
        log.append(STDOUT, b"%4d" % i * 250)
    assert log._spool_bytes == 0
    assert not log.is_full
    reader = log.attach()
    log.finish()
    kept = (await read_all(reader))[STDOUT]
    assert kept.endswith(b" 999" * 250)
    assert 40_000 < len(kept) < 70_000
    assert len(kept) + reader.missed_bytes == 1_000_000


async def test_a_full_log_says_so_and_goes_on_when_read(make_log: MakeLog) -> None:
    """At its bound the log is full; when the slowest reader has caught up there is room again, and nothing is lost."""
    room: list[bool] = []
    log = make_log(100_000, lambda: room.append(True))
    reader = log.attach()
    written = 0
    while not log.is_full:
        log.append(STDOUT, b"x" * 10_000)
        written += 10_000
    assert written < 200_000
    assert log.stalled_readers(log.places()) == [reader]
    read = 0
    while not room:
        read += sum(len(data) for _, data in await reader.next())
    assert log.stalled_readers(log.places()) == []
    log.append(STDOUT, b"y")
    log.finish()
    assert read + len((await read_all(reader))[STDOUT]) == written + 1


async def test_a_full_disk_fills_the_log(make_log: MakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes nothing the log is full at once, keeps what it has, and goes on when it can."""
    room: list[bool] = []
    log = make_log(1 << 30, lambda: room.append(True))
    reader = log.attach()

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        while not log.is_full:
            log.append(STDOUT, b"x" * 10_000)
    assert log._memory_bytes < 100_000
    size = sum(len(data) for _, data in await reader.next())
    assert size >= 60_000
    assert room == [True]
    assert not log.is_full


async def test_who_leaves_takes_nothing_along(make_log: MakeLog) -> None:
    """When the last reader goes the file goes with it; the next one begins where that one was, if it is still kept."""
    log = make_log()
    first = log.attach()
    log.append(STDOUT, b"seen")
    await first.next()
    first.close()
    log.append(STDOUT, b"unseen")
    second = log.attach()
    third = log.attach()
    log.finish()
    assert (await read_all(second))[STDOUT] == b"unseen"
    assert (await read_all(third))[STDOUT] == b""
    for reader in (second, third):
        reader.close()
    assert (await read_all(log.attach()))[STDOUT] == b"seenunseen"
