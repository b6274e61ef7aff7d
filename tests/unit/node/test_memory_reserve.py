"""A host that is short of memory gets no more sandboxes, and says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloister.errors import NoCapacityError
from cloister.linux.meminfo import HostMemory
from cloister.node.memory_reserve import HostReserve, MemoryReserve

MIB = 1 << 20


class Host:
    """A host whose memory the test sets."""

    def __init__(self, available_mib: int) -> None:
        self.available_mib = available_mib

    def look(self) -> HostMemory:
        """Its memory now."""
        return HostMemory(total=4096 * MIB, available=self.available_mib * MIB, swap_total=0, swap_free=0)


def test_below_the_reserve_is_refused() -> None:
    """Exactly the reserve is enough; one MiB less is not, and the message has both numbers and the setting."""
    host = Host(512)
    reserve = MemoryReserve(512, host.look)
    reserve.check()
    host.available_mib = 511
    with pytest.raises(NoCapacityError, match="511 MiB of memory available and keeps 512") as told:
        reserve.check()
    assert "memory_reserve_mib" in (told.value.hint or "")
    assert reserve.counts() == {"available": 511 * MIB, "reserve": 512 * MIB, "refused": 1}


def test_what_has_to_come_back_counts() -> None:
    """A resume needs the memory that was moved out, on top of the reserve."""
    reserve = MemoryReserve(512, Host(600).look)
    reserve.check(88 * MIB)
    with pytest.raises(NoCapacityError, match="of which it needs 89, and keeps 512"):
        reserve.check(89 * MIB)


def test_a_shortage_is_logged_once() -> None:
    """However many requests it refuses; its end is logged, too."""
    host = Host(1)
    reserve = MemoryReserve(512, host.look)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(NoCapacityError):
                reserve.check()
        host.available_mib = 1000
        reserve.check()
        reserve.check()
    assert [entry["event"] for entry in logs] == ["memory.short", "memory.recovered"]


def test_no_reserve_refuses_nothing() -> None:
    """The setting can be turned off."""
    MemoryReserve(0, Host(0).look).check()


def test_disk_has_a_reserve_too(tmp_path: Path) -> None:
    """More than the whole disk is never there; what is short is named."""
    memory = MemoryReserve(0, Host(1).look)
    HostReserve(0, memory).check(tmp_path)
    with pytest.raises(NoCapacityError, match="disk space"):
        HostReserve((shutil.disk_usage(tmp_path).total >> 20) + 1, memory).check(tmp_path)
    with pytest.raises(NoCapacityError, match="1 MiB of memory"):
        HostReserve(0, MemoryReserve(2, Host(1).look)).check(tmp_path)
