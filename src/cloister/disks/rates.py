"""Bounds the reads and writes of each sandbox's disk per second, so that a neighbour's ``fsync`` does not wait behind a flood (I6).

A thread of its own sets and clears the bounds in order: the kernel may take 30 ms for the first bound of a device, and no creation may
wait for that. A sandbox whose disk cannot be bounded is ended (I7). Runs in: supervisor and builds, any thread. Needs: root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cloister.linux.blkio import Rates, bound_device_v1, bound_device_v2, clear_unused_v1, lacks_rates
from cloister.linux.cgroup import CgroupTree

__all__ = ["DiskRates"]

_FREE = Rates(None, None)


class DiskRates:
    """The bounds of one server. Thread-safe."""

    def __init__(self, rates: Rates, cgroups: CgroupTree, tell: Callable[[str, Mapping[str, object]], None]) -> None:
        """Where the host cannot bound devices, ``tell`` logs it once, and ``cloister doctor`` names the cause."""
        self._rates = rates
        self._cgroups = cgroups
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diskrates")
        lacking = "" if rates == _FREE else lacks_rates(cgroups.version)
        if lacking:
            tell("disk.rates_unavailable", {"error": lacking})
        self._is_used = rates != _FREE and not lacking
        if self._is_used and cgroups.version == 1:
            self._thread.submit(self._try, clear_unused_v1, lambda: None)

    def bound(self, sandbox_id: str, number: int, end: Callable[[], None]) -> None:
        """Bound the sandbox's loop device ``number`` soon; ``end`` is called if that fails."""
        if self._is_used:
            self._thread.submit(self._try, self._setting(sandbox_id, number, self._rates), end)

    def free(self, sandbox_id: str, number: int) -> None:
        """Clear the bound of a device, to be called when its sandbox is killed and before it is closed.

        A process that waits for its disk ends only when its writes are stored; a low rate would keep it for minutes.
        """
        if self._is_used:
            self._thread.submit(self._try, self._setting(sandbox_id, number, _FREE), lambda: None)

    def _setting(self, sandbox_id: str, number: int, rates: Rates) -> Callable[[], None]:
        if self._cgroups.version == 1:
            return partial(bound_device_v1, number, rates)
        return partial(self._bound_v2, sandbox_id, number, rates)

    def close(self) -> None:
        """Wait until every bound is set or cleared."""
        self._thread.shutdown(wait=True)

    def _bound_v2(self, sandbox_id: str, number: int, rates: Rates) -> None:
        group = self._cgroups.directories(sandbox_id)["unified"]
        try:
            if not (group / "io.max").exists():  # an older version, which bounded no disk, made it
                self._cgroups.enable_controllers()
            bound_device_v2(number, rates, group)
        except OSError:
            if group.exists():
                raise  # else the sandbox has ended meanwhile, and its bound with it

    def _try(self, work: Callable[[], None], end: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:  # a thread's border
            self._tell("disk.rate_not_set", {"error": str(error)})
            end()
