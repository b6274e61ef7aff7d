"""Logs on disk: kept, bounded, and robust."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.model.log import LogEntry
from cloister.store.logs import LogStore

A, B, C = ("a" * 20, "b" * 20, "c" * 20)


def entries(count: int, first: int = 0) -> list[LogEntry]:
    """Some entries."""
    return [
        LogEntry(at_ms=first + number, level="info", logger="api", event="sandbox.created", fields={"n": str(number)})
        for number in range(count)
    ]


async def opened(directory: Path, *, sandbox_bytes: int = 1 << 20, total_bytes: int = 1 << 24) -> LogStore:
    """An open store."""
    store = LogStore(directory, sandbox_bytes=sandbox_bytes, total_bytes=total_bytes)
    await store.open()
    return store


def on_disk(directory: Path) -> int:
    """Bytes that the files really have."""
    return sum(path.stat().st_size for path in directory.iterdir())


async def test_entries_come_back_also_after_a_restart(tmp_path: Path) -> None:
    """Appended entries are readable at once, and by the next process."""
    store = await opened(tmp_path / "logs")
    store.append(A, entries(3))
    assert await store.read(A) == entries(3)
    store.append(A, entries(2, 10))
    await store.close()
    again = await opened(tmp_path / "logs")
    assert await again.read(A) == [*entries(3), *entries(2, 10)]
    assert await again.read(B) == []
    assert await again.used_bytes() == on_disk(tmp_path / "logs")
    await again.close()


async def test_one_sandbox_is_bounded(tmp_path: Path) -> None:
    """However much is appended, at once or by and by, a sandbox keeps at most its bound: the newest, at least half of it."""
    store = await opened(tmp_path, sandbox_bytes=8192)
    for first in range(0, 1000, 10):
        store.append(A, entries(10, first))
        await store.read(A)
    assert 4096 < on_disk(tmp_path) <= 8192
    kept = await store.read(A)
    assert kept[-1].at_ms == 999
    assert [entry.at_ms for entry in kept] == list(range(1000 - len(kept), 1000))
    store.append(A, entries(100_000))
    assert (await store.read(A))[-1].at_ms == 99_999
    assert on_disk(tmp_path) <= 8192
    assert await store.used_bytes() == on_disk(tmp_path)
    await store.close()


async def test_the_whole_is_bounded(tmp_path: Path) -> None:
    """When all logs together are too much, the one written to least lately goes, and the order outlives a restart."""
    store = await opened(tmp_path, sandbox_bytes=8192, total_bytes=1 << 20)
    for age, name in enumerate((B, A, C)):
        store.append(name, entries(20))
        await store.read(name)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    await store.close()
    small = await opened(tmp_path, sandbox_bytes=8192, total_bytes=on_disk(tmp_path) + 100)
    small.append(C, entries(5))
    assert len(await small.read(C)) == 25
    assert (await small.read(B), len(await small.read(A))) == ([], 20)
    await small.close()


async def test_line_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    """A torn line costs itself only."""
    (tmp_path / A).write_bytes(entries(1)[0].to_line() + b'[12, "info", "a\n' + b'{"x": 1}\n' + entries(1, 5)[0].to_line())
    store = await opened(tmp_path)
    assert [entry.at_ms for entry in await store.read(A)] == [0, 5]
    await store.close()


async def test_prune_forgets_what_ended_long_ago(tmp_path: Path) -> None:
    """Old logs go, except those of sandboxes that live."""
    store = await opened(tmp_path)
    for name in (A, B, C):
        store.append(name, entries(1))
        await store.read(name)
    for name in (A, B):
        os.utime(tmp_path / name, (1000, 1000))
    await store.prune(written_before=2000, keep=lambda name: name == B)
    assert sorted(path.name for path in tmp_path.iterdir()) == [B, C]
    await store.close()


async def test_full_disk_loses_lines_not_the_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An error of the file system is logged, and other sandboxes' lines are written."""
    store = await opened(tmp_path)
    (tmp_path / A).mkdir()
    store.append(A, entries(1))
    store.append(B, entries(1))
    assert await store.read(B) == entries(1)
    assert "logs.not_written" in "".join(capfd.readouterr())
    await store.close()
