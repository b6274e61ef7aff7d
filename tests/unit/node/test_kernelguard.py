"""Which group is stopped for the kernel's memory, on a directory that plays /proc."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.errors import RuntimeFailedError
from cloister.linux.kernelmemory import is_socket_memory_short, lock_owners, queued_bytes
from cloister.node.kernelguard import MAX_LOCKS, KernelGuard
from framework.waiting import turns

GROUPS = {"zone-0": [1], "zone-0-kernel": [2], "modest": [10, 11], "greedy": [20, 21], "spread": [30], "out": [31]}
TEAMS = {"modest": "a", "greedy": "b", "spread": "c", "out": "c"}


class FakeGroups:
    """Control groups with processes."""

    def names(self) -> set[str]:
        """All of them."""
        return set(GROUPS)

    def pids(self, name: str) -> set[int]:
        """Of one."""
        return set(GROUPS[name])

    @property
    def tree(self) -> FakeGroups:
        """What the kernel knows of them."""
        return self

    def helpers(self) -> set[str]:
        """The group of the slot maker."""
        return {"zone-0"}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A host with little in its sockets and no locks."""
    (tmp_path / "net").mkdir()
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    for name in ("tcp_mem", "udp_mem"):
        (tmp_path / "sys/net/ipv4" / name).write_text("1000\t2000\t3000\n")
    (tmp_path / "locks").touch()
    use_sockets(tmp_path, 10, {1: 0, 2: 0, 10: 70 << 20, 20: 10 << 20})
    return tmp_path


def use_sockets(proc: Path, pages: int, queued: dict[int, int]) -> None:
    """Let the host's sockets take so many pages, and the namespaces of processes hold so many bytes."""
    (proc / "net/sockstat").write_text(f"sockets: used 9\nTCP: inuse 3 orphan 0 tw 0 mem {pages}\nUDP: inuse 0 mem 0\nRAW: inuse 0\n")
    for pid, size in queued.items():
        (proc / str(pid) / "net").mkdir(parents=True, exist_ok=True)
        lines = f"  sl  local\n 0: 0100007F:1 0100007F:2 01 {size // 2:08X}:{size - size // 2:08X} 00:0 0 0\n"
        (proc / str(pid) / "net/tcp").write_text(lines)


def hold_locks(proc: Path, counts: dict[int, int]) -> None:
    """Let processes hold so many locks."""
    lines = [f"{n}: POSIX  ADVISORY  WRITE {pid} fe:00:1 {n} {n}\n" for pid, count in counts.items() for n in range(count)]
    (proc / "locks").write_text("1: FLOCK  ADVISORY  WRITE 20 fe:00:9 0 EOF\n1: -> POSIX  ADVISORY  READ 10 fe:00:9 0 0\n" + "".join(lines))


async def stopped_by(proc: Path) -> list[str]:
    """Sandboxes that the guard stops in a few checks, once each."""
    found = list[str]()

    async def stop(name: str) -> None:
        found.append(name)

    running = asyncio.create_task(KernelGuard(cast("Any", FakeGroups()), stop, lambda name: TEAMS.get(name, ""), proc).run(0.001))
    await turns(60)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return list(dict.fromkeys(found))


async def test_no_group_is_stopped_while_there_is_enough(proc: Path) -> None:
    """However much one has: what the kernel gives without holding back others is no harm."""
    use_sockets(proc, 2000, {20: 1 << 30})
    hold_locks(proc, {20: MAX_LOCKS // 2, 10: MAX_LOCKS // 4})
    assert await stopped_by(proc) == []


async def test_the_group_with_the_fullest_sockets_is_stopped(proc: Path) -> None:
    """When the kernel holds back the sockets of all."""
    use_sockets(proc, 2001, {20: 100 << 20})
    assert await stopped_by(proc) == ["greedy"]


async def test_a_team_that_spreads_has_no_others_stopped(proc: Path) -> None:
    """Each of its sandboxes has less than another team's one, and less than would be looked at."""
    use_sockets(proc, 2001, {10: 70 << 20, 20: 0, 30: 60 << 20, 31: 50 << 20})
    assert await stopped_by(proc) == ["spread"]
    use_sockets(proc, 10, {})
    hold_locks(proc, {10: MAX_LOCKS // 2, 30: MAX_LOCKS // 2 + 1, 31: MAX_LOCKS // 3, 2: MAX_LOCKS})
    assert await stopped_by(proc) == ["spread"]


async def test_a_group_with_little_in_its_sockets_is_not_stopped(proc: Path) -> None:
    """When it is the host that has so much."""
    use_sockets(proc, 2001, {10: 1 << 20})
    assert await stopped_by(proc) == []


async def test_the_group_with_too_many_locks_is_stopped(proc: Path) -> None:
    """Locks of all its processes count together, those of others do not."""
    hold_locks(proc, {20: MAX_LOCKS // 2, 21: MAX_LOCKS // 2 + 1, 10: 100})
    assert await stopped_by(proc) == ["greedy"]


async def test_a_group_that_does_not_end_spares_no_other(proc: Path) -> None:
    """One has too many locks and cannot be stopped: the one with too much in its sockets is, at the same look."""
    hold_locks(proc, {10: MAX_LOCKS + 1})
    use_sockets(proc, 2001, {20: 100 << 20})
    asked = list[str]()

    async def stop(name: str) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise RuntimeFailedError("it does not end")

    running = asyncio.create_task(KernelGuard(cast("Any", FakeGroups()), stop, lambda name: TEAMS.get(name, ""), proc).run(3600))
    async with asyncio.timeout(20):
        while len(asked) < 2 and not running.done():
            await turns(1)
    assert asked == ["modest", "greedy"]
    running.cancel()


async def test_a_host_that_cannot_be_read_ends_nothing(proc: Path) -> None:
    """The guard goes on looking."""
    (proc / "locks").unlink()
    use_sockets(proc, 2001, {20: 100 << 20})
    assert await stopped_by(proc) == []


async def test_locks_of_another_kind_do_not_hide_a_group(proc: Path) -> None:
    """It holds so many locks of flock that none of its record locks is read."""
    (proc / "locks").write_text("1: FLOCK  ADVISORY  READ 20 fe:00:9 0 EOF\n" * 3 * MAX_LOCKS)
    assert await stopped_by(proc) == ["greedy"]


async def test_groups_that_fill_the_list_together_do_not_hide_a_third(proc: Path) -> None:
    """Each has as many as it may: the one with the most is stopped, so that the next look sees further."""
    hold_locks(proc, {20: MAX_LOCKS, 10: MAX_LOCKS - 10, 2: 4 * MAX_LOCKS})
    assert await stopped_by(proc) == ["greedy"]


async def test_locks_that_outlive_their_process_are_the_groups(proc: Path) -> None:
    """The process that took them has ended, and the file is on a device that only the group sees; on a shared one they count for none."""
    for pid, device in ((1, "254:9"), (2, "254:9"), (10, "254:1"), (20, "254:17")):
        (proc / str(pid)).mkdir(exist_ok=True)
        (proc / str(pid) / "mountinfo").write_text(f"1 0 {device} / / rw - overlay o rw\n2 1 8:1 / /agent ro - ext4 d ro\n")
    (proc / "locks").write_text("1: FLOCK  ADVISORY  READ 99 08:01:9 0 EOF\n" * 3 * MAX_LOCKS)
    assert await stopped_by(proc) == []
    (proc / "locks").write_text("1: FLOCK  ADVISORY  READ 99 fe:11:9 0 EOF\n" * 3 * MAX_LOCKS)
    assert await stopped_by(proc) == ["greedy"]


def test_locks_that_wait_are_counted(proc: Path) -> None:
    """The list shows a lock that waits behind one that waits with more room before it; the guard reads on, whatever a sandbox piles up."""
    waiting = "".join(f"1: {' ' * depth}-> POSIX  ADVISORY  WRITE 20 fe:00:9 0 EOF\n" for depth in range(3))
    (proc / "locks").write_text("1: POSIX  ADVISORY  WRITE 10 fe:00:9 0 EOF\n" + waiting)
    assert lock_owners(100, proc) == {(10, "fe:00"): 1, (20, "fe:00"): 3}


def test_what_is_read(proc: Path) -> None:
    """Sums, and no more lines than were asked for."""
    hold_locks(proc, {20: 5, 21: 3})
    assert lock_owners(100, proc) == {(20, "fe:00"): 6, (10, "fe:00"): 1, (21, "fe:00"): 3}
    assert lock_owners(3, proc).total() == 3
    assert queued_bytes({10, 9}, proc) == 70 << 20  # 9 has ended
    assert queued_bytes({99}, proc) == 0
    assert not is_socket_memory_short(proc)
