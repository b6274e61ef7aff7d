"""How free space is divided among disks: promises first, never more than there is."""

from __future__ import annotations

import pytest

from cloister.disks.space import Stock, divide

_GROWING = float(1 << 30)


def test_there_is_room_for_all() -> None:
    """Small disks on a large file system may be filled."""
    assert divide(1000, [Stock(10, 100, 0.0), Stock(10, 100, 0.0)]) == [100, 100]


def test_promises_come_first() -> None:
    """A disk that grows gets its part of what is left beside the promises of others, and one that has used its promise gets some too."""
    idle, grows = divide(1000, [Stock(600, 9000, 0.0), Stock(0, 9000, _GROWING)])
    assert idle == 600 + 100
    assert grows == 100 + 100


@pytest.mark.parametrize("room", [100, 7, 0, -50])
def test_promises_that_are_not_covered(room: int) -> None:
    """Each disk gets a fair part, and all together never more than there is."""
    shares = divide(room, [Stock(100, 9000, _GROWING), Stock(300, 9000, 0.0), Stock(0, 9000, _GROWING)])
    assert shares == [max(0, room) // 4, max(0, room) * 3 // 4, 0]


@pytest.mark.parametrize("growing", [0, 1, 50])
def test_never_more_than_there_is(growing: int) -> None:
    """The sum of all parts leaves a quarter of what is promised to no disk, for disks that are made next."""
    stocks = [Stock(10, 10_000, _GROWING if number < growing else 0.0) for number in range(50)]
    assert sum(divide(5000, stocks)) <= 5000 - (5000 - 500) // 4


def test_no_disks() -> None:
    """Nothing is divided."""
    assert divide(100, []) == []
