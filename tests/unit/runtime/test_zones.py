"""Which zone is ended for another: the bookkeeping, with zones that are nothing but numbers."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError
from cloister.linux.process import start_ticks
from cloister.runtime.blocks import BLOCKS, Blocks
from cloister.runtime.namespace import zone as zone_module
from cloister.runtime.namespace import zones as zones_module
from cloister.runtime.namespace.zone import Slot, Zone
from cloister.runtime.namespace.zones import Zones


class FakeZone(Zone):
    """A zone without a slot maker: the counting of slots is the real one."""

    ended: list[str]

    def __init__(self, number: int, template_key: str, ended: list[str]) -> None:
        super().__init__(number, template_key, -1, cast("Any", None), Path())
        self.ended = ended
        self.alive = True

    def is_alive(self) -> bool:
        """Until the test kills it."""
        return self.alive

    def stop(self) -> None:
        """Note it."""
        self.on_stop()
        self.ended.append(self.template_key)


class Clock:
    """Time that passes by a second with each look at it."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1000.0)

    def monotonic(self) -> float:
        """See :func:`time.monotonic`."""
        return next(self._seconds)


@pytest.fixture
def ended() -> list[str]:
    """The templates whose zones were ended, in order."""
    return []


@pytest.fixture
def removed() -> list[str]:
    """Control groups that were removed."""
    return []


@pytest.fixture
def blocks() -> Blocks:
    """All of them free."""
    return Blocks(0)


@pytest.fixture
def zones(ended: list[str], removed: list[str], blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zones:
    """No zones yet."""

    def start(number: int, template_key: str, *_more: object) -> FakeZone:
        return FakeZone(number, template_key, ended)

    monkeypatch.setattr(Zone, "start", start)
    monkeypatch.setattr(zone_module, "time", Clock())
    return Zones(tmp_path / "zones", blocks, cast("Any", SimpleNamespace(remove=removed.append)))


def use(zones: Zones, key: str) -> None:
    """A sandbox of the template that lives no time at all."""
    zone, slot = zones.take_slot(key)
    zone.free(slot)


def test_more_templates_than_zones_each_get_one(zones: Zones, ended: list[str], removed: list[str]) -> None:
    """One after another: the zone that was used least recently makes room, with its zygotes' groups."""
    for number in range(20):
        use(zones, f"t{number}")
    assert ended == [f"t{number}" for number in range(5)]
    assert removed[:3] == ["zone-0", "zone-0-agent", "zone-0-kernel"]
    use(zones, "t5")  # used again: now t6 is the oldest
    use(zones, "t0")
    assert ended[5:] == ["t6"]


def test_zones_with_live_sandboxes_are_never_taken(zones: Zones, ended: list[str]) -> None:
    """With all of them in use there is none to have, and one as soon as a sandbox ends."""
    held: list[tuple[Zone, Slot]] = [zones.take_slot(f"t{number}") for number in range(BLOCKS)]
    assert not zones.has_room("more")
    assert zones.has_room("t3")
    with pytest.raises(NoCapacityError, match="templates have live sandboxes already"):
        zones.take_slot("more")
    assert zones.stop_idle(0.0) == []
    assert ended == []
    zone, slot = held[7]
    zone.free(slot)
    assert zones.has_room("more")
    assert zones.take_slot("more")[0].number == 7
    assert ended == ["t7"]


def test_another_runtime_gets_the_block_of_an_idle_zone(zones: Zones, blocks: Blocks, ended: list[str]) -> None:
    """Of the one that was used least recently; none of a zone that has a sandbox."""
    for number in range(BLOCKS - 1):
        use(zones, f"t{number}")
    zones.take_slot("used")
    assert blocks.has_room("another")
    assert [blocks.take("another") for _ in range(BLOCKS)] == [*range(BLOCKS - 1), None]
    assert ended == [f"t{number}" for number in range(BLOCKS - 1)]
    assert not blocks.has_room("another")


def test_idle_zones_are_ended_after_their_time(zones: Zones, ended: list[str]) -> None:
    """Counted from when their last sandbox ended; what is in use stays, however old."""
    zones.take_slot("used")
    use(zones, "old")
    for _ in range(50):
        use(zones, "new")
    assert zones.stop_idle(40.0) == ["old"]
    assert ended == ["old"]
    assert zones.stop_idle(40.0) == []


def test_their_zygotes_end_with_them(zones: Zones) -> None:
    """Whoever holds something for a zone is told before it is gone."""
    told: list[int] = []
    zone, slot = zones.take_slot("t")
    zone.on_stop = lambda: told.append(zone.number)
    zone.free(slot)
    zones.stop_idle(-1.0)
    assert told == [0]


def test_the_next_zone_of_a_busy_template_costs_no_other_its_own(zones: Zones, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking ahead takes free places only."""
    monkeypatch.setattr(zones_module, "SPARE_SLOTS", 1000)
    for number in range(BLOCKS):
        use(zones, f"t{number}")
    assert zones.start_next("t0") is None
    assert ended == []


def test_a_dead_zone_is_replaced(zones: Zones, ended: list[str]) -> None:
    """Its slot maker was killed: its sandboxes are dead, and the next creation gets a new one."""
    zone, _slot = zones.take_slot("t")
    cast("FakeZone", zone).alive = False
    assert zones.take_slot("t")[0] is not zone
    assert ended == ["t"]


@pytest.mark.parametrize(("current", "key"), [("/bin/sleep", "template"), ("/bin/cat", "")])
def test_zone_of_another_slot_maker_gets_no_new_sandboxes(current: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade a zone keeps its sandboxes, but is taken for no template: its program would not understand a new sandbox."""
    monkeypatch.setattr(zone_module, "slot_maker_binary", lambda: Path(current))
    program = subprocess.Popen(["/bin/sleep", "60"])
    try:
        note = {"template_key": "template", "pid": program.pid, "start_ticks": start_ticks(program.pid)}
        (tmp_path / "zone.json").write_text(json.dumps(note))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
            adopted = Zone.adopt(0, tmp_path, cast("Any", None))
            assert adopted is not None
            assert adopted.is_alive()
            assert adopted.template_key == key
            assert adopted.hold(3) == Slot(0, 3)
            adopted.stop()
    finally:
        program.kill()
        program.wait()
