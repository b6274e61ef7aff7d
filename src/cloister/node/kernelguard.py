"""Stops a sandbox that takes kernel memory which no control group is charged for, before its neighbours or the host lack it (I6).

Two kinds have no bound of their own. Buffers of TCP connections that no program has accepted are charged to no group, and v1 charges no
buffer of TCP strictly; all sockets of the host share one amount (``tcp_mem``). Locks of files are charged to no group either. Each second
two short files tell whether much of either is in use; only then the guard looks for the group that has it.
Runs in: the supervisor's event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from cloister.errors import CloisterError
from cloister.linux.kernelmemory import is_socket_memory_short, lock_owners, mounted_devices, queued_bytes
from cloister.runtime.groups import Groups

__all__ = ["MAX_LOCKS", "KernelGuard"]

_log = structlog.get_logger("cloister.node")
_INTERVAL_S = 1.0
_MIN_QUEUED = 64 << 20
"""A team with less in its sockets is not the cause of a shortage."""
MAX_LOCKS = 16_384
"""File locks that one sandbox may hold."""
_LOCKS_READ = 2 * MAX_LOCKS
_MANY_LOCKS = MAX_LOCKS // 4
"""If there are more locks than are read, a sandbox of the team with the most is stopped, unless the team has fewer than this."""


class KernelGuard:
    """One task, :meth:`run`."""

    def __init__(
        self, groups: Groups, stop: Callable[[str], Awaitable[None]], team_of: Callable[[str], str], proc: Path = Path("/proc")
    ) -> None:
        """``stop`` ends the sandbox, build step or zygote of a control group. ``team_of`` gives its team, or an empty text.

        Both are called from any thread. A group that sandboxes depend on (:meth:`Groups.helpers`) is never stopped.
        """
        self._groups = groups
        self._stop = stop
        self._team_of = team_of
        self._proc = proc

    async def run(self, interval_s: float = _INTERVAL_S) -> None:
        """Watch for ever."""
        while True:
            try:
                found = await asyncio.to_thread(self._look)
            except OSError:  # the next look tries again
                _log.exception("kernel_memory.not_surveyed")
                found = {}
            for name, what in found.items():
                _log.error("sandbox.stopped_for_kernel_memory", sandbox_id=name, of=what)
                try:
                    await self._stop(name)
                except (CloisterError, OSError):  # a group that does not end must not keep the others alive
                    _log.exception("sandbox.not_stopped", sandbox_id=name)
            await asyncio.sleep(interval_s)

    def _look(self) -> dict[str, str]:
        """Groups to be stopped, and the resource of which each has too much."""
        found = dict.fromkeys(self._groups_with_locks(), "file locks")
        if is_socket_memory_short(self._proc):
            queued = Counter({name: queued_bytes(self._groups.tree.pids(name), self._proc) for name in self._names()})
            found |= dict.fromkeys(self._fullest(queued, _MIN_QUEUED), "buffers of sockets")
        return found

    def _fullest(self, amounts: Counter[str], least: int) -> list[str]:
        """The largest group of the team with the largest sum, unless that is less than ``least``.

        Teams are compared first: otherwise a team that spreads over many sandboxes would get another team's sandbox stopped.
        """
        teams = {name: self._team_of(name) or name for name in amounts}
        by_team = Counter[str]()
        for name, amount in amounts.items():
            by_team[teams[name]] += amount
        return [
            max((name for name in amounts if teams[name] == team), key=amounts.__getitem__)
            for team, amount in by_team.most_common(1)
            if amount >= least
        ]

    def _groups_with_locks(self) -> list[str]:
        owners = lock_owners(_LOCKS_READ, self._proc)
        if owners.total() <= MAX_LOCKS:
            return []
        locks = self._locks_by_group(owners)
        found = [name for name, count in locks.items() if count > MAX_LOCKS]
        if not found and owners.total() == _LOCKS_READ:  # there may be more, of any group: these may be held to hide them
            _log.error("kernel_memory.too_many_locks", held_by=dict(locks.most_common(5)))
            found = self._fullest(locks, _MANY_LOCKS)
        return found

    def _locks_by_group(self, owners: Counter[tuple[int, str]]) -> Counter[str]:
        """Count locks by the group of their process; if that has ended, by the only group that sees the file's device."""
        pids = {name: self._groups.tree.pids(name) for name in self._names()}
        by_pid = {pid: name for name, members in pids.items() for pid in members}
        devices = {name: mounted_devices(members, self._proc) for name, members in pids.items()}
        seen = Counter(device for found in devices.values() for device in found)
        by_device = {device: name for name, found in devices.items() for device in found if seen[device] == 1}
        locks = Counter[str]()
        for (pid, device), count in owners.items():
            name = by_pid.get(pid) or by_device.get(device)
            if name is not None:
                locks[name] += count
        return locks

    def _names(self) -> list[str]:
        return sorted(self._groups.tree.names() - self._groups.helpers())
