"""Deletes the pairs of ended sandboxes behind everybody's back, many at a time.

Deleting an interface makes the kernel wait for its readers (20 to 30 ms) under the lock that every attach needs, and each network namespace
that ends alone costs as much again. So they are gathered for a moment: one wait for all. Until a slot's ``on_gone`` is called, something of
it exists and it must not be given out; it is not called when the deletion fails. Owns: the thread and what waits for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cloister.errors import CloisterError

__all__ = ["Reaper"]

_log = structlog.get_logger("cloister.network")
_GATHER_S = 0.25
_GATHER_MAX = 64


@dataclass(frozen=True)
class _Dead:
    slot: int
    netns_fd: int | None
    on_gone: Callable[[], None]


class Reaper:
    """``remove`` takes slot numbers and removes all that is left of them. Thread-safe; the thread ends when there is nothing to do."""

    def __init__(self, remove: Callable[[Sequence[int]], None]) -> None:
        self._remove = remove
        self._changed = threading.Condition()
        self._waiting: list[_Dead] = []
        self._slots: set[int] = set()
        self._is_running = False
        self._is_hurried = False

    def add(self, slot: int, netns_fd: int | None, on_gone: Callable[[], None]) -> None:
        """Remove the slot before long, close ``netns_fd``, which is the reaper's from now on, and call ``on_gone`` (from any thread)."""
        with self._changed:
            self._waiting.append(_Dead(slot, netns_fd, on_gone))
            self._slots.add(slot)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="network-reaper", daemon=True).start()
            elif len(self._waiting) >= _GATHER_MAX:
                self._changed.notify_all()

    def settle(self, slot: int | None = None) -> None:
        """Wait until nothing is left to remove, or nothing of ``slot``; now, without gathering more."""
        with self._changed:
            while self._slots if slot is None else slot in self._slots:
                if not self._is_hurried:
                    self._is_hurried = True
                    self._changed.notify_all()
                self._changed.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_hurried or len(self._waiting) >= _GATHER_MAX, _GATHER_S)
                batch, self._waiting = self._waiting, []
                self._is_hurried = False
            done = self._bury(batch)
            for dead in batch:
                if dead.netns_fd is not None:
                    os.close(dead.netns_fd)
            with self._changed:
                self._slots.difference_update(dead.slot for dead in batch)
                self._changed.notify_all()
                self._is_running = bool(self._waiting)
                goes_on = self._is_running
            for dead in batch:
                if dead.slot in done:
                    dead.on_gone()
            if not goes_on:
                return

    def _bury(self, batch: Sequence[_Dead]) -> set[int]:
        slots = [dead.slot for dead in batch]
        try:
            self._remove(slots)
        except (CloisterError, OSError):  # a thread's border: those slots stay taken until the next start
            _log.exception("network.slots_not_removed", slots=slots)
            return set()
        return set(slots)
