"""Deletes the veth pairs of ended sandboxes in the background, in batches.

When an interface is deleted, the kernel waits for its readers (20 to 30 ms) under the lock that every attach needs. A network namespace
that ends alone costs as much again. So deletions are gathered for a moment, and the kernel waits once. A slot must not be used before its
``on_gone`` is called; a failed deletion never calls it. Owns: the thread and its queue.

Runs in: supervisor, one thread of its own. Needs: the capabilities of the function that removes slots.
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
class _Removal:
    slot: int
    netns_fd: int | None
    on_gone: Callable[[], None]


class Reaper:
    """``remove`` removes the kernel objects of the slots it is given. Thread-safe; the thread ends when the queue is empty."""

    def __init__(self, remove: Callable[[Sequence[int]], None]) -> None:
        self._remove = remove
        self._changed = threading.Condition()
        self._waiting: list[_Removal] = []
        self._slots: set[int] = set()
        self._is_running = False
        self._is_hurried = False

    def add(self, slot: int, netns_fd: int | None, on_gone: Callable[[], None]) -> None:
        """Queue the slot's removal; then close ``netns_fd``, which the reaper owns from now on, and call ``on_gone`` (from any thread)."""
        with self._changed:
            self._waiting.append(_Removal(slot, netns_fd, on_gone))
            self._slots.add(slot)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="network-reaper", daemon=True).start()
            elif len(self._waiting) >= _GATHER_MAX:
                self._changed.notify_all()

    def settle(self, slot: int | None = None) -> None:
        """Remove queued slots at once, and wait until ``slot`` (None: every slot) is removed."""
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
            done = self._remove_batch(batch)
            for removal in batch:
                if removal.netns_fd is not None:
                    os.close(removal.netns_fd)
            with self._changed:
                self._slots.difference_update(removal.slot for removal in batch)
                self._changed.notify_all()
                self._is_running = bool(self._waiting)
                goes_on = self._is_running
            for removal in batch:
                if removal.slot in done:
                    removal.on_gone()
            if not goes_on:
                return

    def _remove_batch(self, batch: Sequence[_Removal]) -> set[int]:
        slots = [removal.slot for removal in batch]
        try:
            self._remove(slots)
        except (CloisterError, OSError):  # border of a thread: these slots stay in use until the next start
            _log.exception("network.slots_not_removed", slots=slots)
            return set()
        return set(slots)
