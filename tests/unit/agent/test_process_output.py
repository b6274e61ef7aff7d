"""The log between a process and its readers: order, completeness, bounds."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator

import pytest

from cloister.agent.process.output import STDERR, STDOUT, OutputLog, Reader
from cloister.errors import UnavailableError

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


async def _asks_again(reader: Reader) -> None:
    """Have ``reader`` ask for more, which says that it has read everything so far, and give up."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await reader.next()


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
    """Fast, slow and late readers each get every byte written since they came. It comes through memory and file."""
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
    """Output that waits for a reader is in the file; the memory holds only the newest 64 KiB."""
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
    """Without a reader only the newest output is kept, and the next reader learns how much is missing."""
    log = make_log()
    for i in range(4000):
        log.append(STDOUT, b"%4d" % i * 250)
    assert log._spool_bytes == 0
    assert not log.is_full
    reader = log.attach()
    log.finish()
    kept = (await read_all(reader))[STDOUT]
    assert kept.endswith(b"3999" * 250)
    assert 800_000 < len(kept) <= 1 << 20
    assert len(kept) + reader.missed_bytes == 4_000_000


async def test_a_full_log_says_so_and_goes_on_when_read(make_log: MakeLog) -> None:
    """At its bound the log is full. There is room again when the slowest reader has caught up. No byte is lost."""
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
    """A full disk makes the log full at once. The log keeps its content and goes on when there is space."""
    room: list[bool] = []
    log = make_log(1 << 30, lambda: room.append(True))
    reader = log.attach()
    written = 0

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        while not log.is_full:
            log.append(STDOUT, b"x" * 10_000)
            written += 10_000
    assert log._memory_bytes < 100_000
    size = 0
    while not room:
        size += sum(len(data) for _, data in await reader.next())
    log.finish()
    assert size + len((await read_all(reader))[STDOUT]) == written
    assert not log.is_full


async def test_who_leaves_takes_nothing_along(make_log: MakeLog) -> None:
    """The file goes with the last reader. The next reader begins where that one was, if that is still kept."""
    log = make_log()
    first = log.attach()
    log.append(STDOUT, b"seen")
    await first.next()
    await _asks_again(first)
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


async def test_what_a_broken_connection_did_not_take_comes_again(make_log: MakeLog) -> None:
    """A reader that leaves while it sends has not read what it sends; the next reader gets that, once."""
    log = make_log()
    first = log.attach()
    log.append(STDOUT, b"sent,")
    await first.next()
    await _asks_again(first)
    log.append(STDOUT, b"lost,")
    assert await first.next() == [(STDOUT, b"lost,")]
    first.close()
    log.append(STDOUT, b"new")
    log.finish()
    assert (await read_all(log.attach()))[STDOUT] == b"lost,new"


async def test_released_readers_leave_everything_to_the_next(make_log: MakeLog) -> None:
    """A pause releases all readers: each ends with a reason, and the next reader gets all output from then on, also after the end."""
    log = make_log()
    readers = [log.attach(), log.attach()]
    log.append(STDERR, b"before,")
    for reader in readers:
        await reader.next()
        await _asks_again(reader)
    waiting = asyncio.create_task(readers[0].next())
    await asyncio.sleep(0)
    log.release_readers("it is paused")
    log.append(STDOUT, b"while nobody looked")
    for released in (waiting, readers[1].next()):
        with pytest.raises(UnavailableError, match="paused"):
            await released
    log.finish()
    assert (await read_all(log.attach()))[STDOUT] == b"while nobody looked"


async def test_a_megabyte_without_a_reader_is_kept(make_log: MakeLog) -> None:
    """Output between two readers is kept up to a bound, given in pieces, and what a reader had makes room for it."""
    log = make_log()
    first = log.attach()
    log.append(STDOUT, b"a" * 60_000)
    await first.next()
    await _asks_again(first)
    log.release_readers("it is paused")
    for i in range(900):
        log.append(STDOUT, b"%4d" % i * 250)
    second = log.attach()
    assert (second.missed_bytes, len(await second.next())) == (0, 1)
    log.finish()
    assert (await read_all(second))[STDOUT].endswith(b" 899" * 250)
    assert log.kept_bytes < 1 << 20
