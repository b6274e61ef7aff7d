"""The zones of one instance: which slot maker serves which sandboxes, and where a free slot is.

Thread-safe. Invariant: a zone serves sandboxes of one :attr:`Sharing.key` only. The node's catalog makes the keys such that no template
has power over another team's sandboxes (docs/decisions/0701-zones-and-teams.md). Runs in: supervisor and builds. Needs: root.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from cloister.errors import NoCapacityError
from cloister.runtime.blocks import Blocks
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.namespace.zone import Slot, Zone
from cloister.runtime.namespace.zygotes import KINDS

__all__ = ["RUNTIME", "SPARE_SLOTS", "Zones", "groups_of_zone"]

RUNTIME = "namespace"
"""The name of this runtime."""
SPARE_SLOTS = 320
"""With fewer free ones the next zone is started: its zygotes need up to six seconds, in which its sandboxes would start cold."""


class Zones:
    """All slot makers of the instance; ``directory`` holds one directory a zone."""

    def __init__(self, directory: Path, blocks: Blocks, groups: RuntimeGroups) -> None:
        self._directory = directory
        self._blocks = blocks
        self._groups = groups
        self._lock = threading.Lock()
        self._zones: dict[int, Zone] = {}
        self._stopped = False
        blocks.add_keeper(RUNTIME, self)

    def adopt_all(self) -> None:
        """Find the slot makers that outlived an earlier supervisor, end what they have of its zygotes, and forget the ones that did not."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            zone = Zone.adopt(int(path.name), path, self._groups)
            if zone is not None:
                self._blocks.hold(RUNTIME, zone.number)
                self._zones[zone.number] = zone
                self._groups.claim(f"zone-{zone.number}", is_helper=True)
                for group in groups_of_zygotes(zone.number):
                    self._groups.claim(group)
                    self._groups.tree.kill_all(group)
            else:
                for leftover in path.iterdir():
                    leftover.unlink()
                path.rmdir()
                for group in groups_of_zone(int(path.name)):
                    self._groups.tree.end(group)

    def take_slot(self, template_key: str) -> tuple[Zone, Slot]:
        """A free slot in a zone of this template, whose slot maker is started when there is none.

        Raises: NoCapacityError, IsolationError.
        """
        with self._lock:
            self._drop_dead()
            for zone in self._zones.values():
                if zone.template_key == template_key and zone.free_slots():
                    return zone, zone.take()
            zone = self._start(template_key)
            return zone, zone.take()

    def has_room(self, template_key: str) -> bool:
        """Whether :meth:`take_slot` has one to give."""
        with self._lock:
            self._drop_dead()
            zones = self._zones.values()
            has_own = any(zone.is_idle() or (zone.template_key == template_key and zone.free_slots()) for zone in zones)
            return has_own or self._blocks.has_room(RUNTIME)

    def stop_idle(self, idle_s: float) -> list[str]:
        """End the zones, with their zygotes, in which no slot was taken for so long; says whose they were."""
        with self._lock:
            idle = [zone for zone in self._zones.values() if zone.is_idle() and zone.idle_s() > idle_s]
            for zone in idle:
                self._stop_one(zone)
        return [zone.template_key for zone in idle]

    def has_idle_block(self) -> bool:
        """Whether a zone is idle, whose block another runtime could have."""
        with self._lock:
            return any(zone.is_idle() for zone in self._zones.values())

    def give_idle_block(self) -> bool:
        """End the zone that has been idle the longest; False when none is."""
        with self._lock:
            return self._stop_idlest()

    def is_short(self, template_key: str) -> bool:
        """Whether the zones of this template are so nearly full that the next one should be made ready."""
        with self._lock:
            return self._free_slots(template_key) < SPARE_SLOTS

    def start_next(self, template_key: str) -> Zone | None:
        """Another zone for this template, before the others are full; None when it is not needed, or would cost another template its own.

        Raises: IsolationError.
        """
        with self._lock:
            if self._stopped or not self._blocks.free() or self._free_slots(template_key) >= SPARE_SLOTS:
                return None
            return self._start(template_key)

    def _free_slots(self, template_key: str) -> int:
        return sum(zone.free_slots() for zone in self._zones.values() if zone.template_key == template_key)

    def hold_slot(self, zone_number: int, slot_number: int) -> tuple[Zone, Slot] | None:
        """The slot of a sandbox that is being adopted; None when its zone is gone."""
        zone = self._zones.get(zone_number)
        return (zone, zone.hold(slot_number)) if zone else None

    def kill_strangers(self) -> list[str]:
        """End slots that no sandbox holds; says which."""
        with self._lock:
            zones = [zone for zone in self._zones.values() if zone.is_alive()]
        return [f"slot {zone.number}/{number}" for zone in zones for number in zone.kill_strangers()]

    def survey(self) -> list[str]:
        """A line for each slot maker."""
        return [zone.describe() for zone in self._zones.values()]

    def stop(self) -> None:
        """End all of them and, with them, every sandbox."""
        with self._lock:
            self._stopped = True
            for zone in list(self._zones.values()):
                self._stop_one(zone)
            with contextlib.suppress(FileNotFoundError):
                self._directory.rmdir()

    def _start(self, template_key: str) -> Zone:
        number = self._blocks.take(RUNTIME)
        if number is None:
            if not self._stop_idlest():
                message = f"{len(self._zones)} templates have live sandboxes already"
                raise NoCapacityError(message, hint="kill sandboxes of another template")
            number = self._blocks.take(RUNTIME)
        if number is None:
            raise NoCapacityError("another runtime has just taken the last block of host ids", hint="try again")
        try:
            zone = Zone.start(number, template_key, self._blocks, self._directory / str(number), self._groups)
        except BaseException:
            with contextlib.suppress(OSError):  # the node's sweep tries again; the error to be told is the first one
                self._give_back(number)
            raise
        self._zones[number] = zone
        return zone

    def _stop_idlest(self) -> bool:
        idle = max((zone for zone in self._zones.values() if zone.is_idle()), key=Zone.idle_s, default=None)
        if idle is not None:
            self._stop_one(idle)
        return idle is not None

    def _drop_dead(self) -> None:
        for zone in [zone for zone in self._zones.values() if not zone.is_alive()]:
            self._stop_one(zone)

    def _stop_one(self, zone: Zone) -> None:
        zone.stop()
        del self._zones[zone.number]
        self._give_back(zone.number)

    def _give_back(self, number: int) -> None:
        """Remove the groups of a zone whose processes have ended, then give back its block. Raises: OSError, after all were tried."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._blocks.give, number)
            for group in reversed(groups_of_zone(number)):
                undo.callback(self._groups.remove, group)


def groups_of_zone(number: int) -> list[str]:
    """The control groups of a zone: its slot maker's and its zygotes'."""
    return [f"zone-{number}", *groups_of_zygotes(number)]


def groups_of_zygotes(number: int) -> list[str]:
    """The control groups of a zone's zygotes; their children are in the groups of their sandboxes."""
    return [f"zone-{number}-{kind}" for kind in KINDS]
