"""Counts what sandboxes use, for each one and in total, and lets them wait in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable

__all__ = ["Bound", "FairBound", "FairTurns"]


class Bound:
    """A number of uses that one user may have, and all together."""

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._used: Counter[str] = Counter()
        self._sum = 0

    def take(self, user: str) -> bool:
        """Count a use; False, and nothing is counted: the bound is reached."""
        if self._used[user] >= self._each or self._sum >= self._total:
            return False
        self._used[user] += 1
        self._sum += 1
        return True

    def give_back(self, user: str) -> None:
        """Undo one :meth:`take`."""
        self._used[user] -= 1
        self._sum -= 1
        if not self._used[user]:
            del self._used[user]


class FairBound:
    """As :class:`Bound`, but users with many uses cannot keep others from having one.

    When all uses are taken, the user with the most gives up the oldest one, for a user who has fewer.
    """

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._uses: dict[str, dict[object, Callable[[], object]]] = {}
        """How to end each use, by user; the oldest one first."""
        self._by_count: defaultdict[int, dict[str, None]] = defaultdict(dict)
        """The users with that many uses: the greatest number is found without a look at each user."""
        self._sum = 0

    def take(self, user: str, give_up: Callable[[], object]) -> object | None:
        """Count a use, and return what :meth:`give_back` needs; None: the bound is reached.

        ``give_up`` is called if the use has to end for another user's; it is not counted any more then.
        """
        count = len(self._uses.get(user, ()))
        if count >= self._each:
            return None
        if self._sum >= self._total:
            most = max(self._by_count)
            if most <= count:
                return None
            self._end_oldest(next(iter(self._by_count[most])))
        use = object()
        self._uses.setdefault(user, {})[use] = give_up
        self._sum += 1
        self._recount(user, count)
        return use

    def give_back(self, user: str, use: object) -> None:
        """Undo a :meth:`take`. Idempotent, and without effect on a use that was given up."""
        uses = self._uses.get(user, {})
        if uses.pop(use, None) is not None:
            self._sum -= 1
            self._recount(user, len(uses) + 1)

    def _end_oldest(self, user: str) -> None:
        use = next(iter(self._uses[user]))
        give_up = self._uses[user][use]
        self.give_back(user, use)
        give_up()

    def _recount(self, user: str, former: int) -> None:
        count = len(self._uses[user])
        if former:
            del self._by_count[former][user]
            if not self._by_count[former]:
                del self._by_count[former]
        if count:
            self._by_count[count][user] = None
        else:
            del self._uses[user]


class FairTurns:
    """A number of turns at once. Users who wait get theirs in a circle, so the many turns of one are before one of another's at most once.

    Event loop only.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Those who wait, by user; the user who is next first."""

    @contextlib.asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the block."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(user)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, user: str) -> None:
        came = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(came)
        try:
            await came
        except asyncio.CancelledError:
            if came.cancelled():
                self._forget(user, came)
            else:  # the turn came at the same moment
                self._pass_on()
            raise

    def _forget(self, user: str, came: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user, deque())
        with contextlib.suppress(ValueError):
            queue.remove(came)
        if not queue:
            self._waiting.pop(user, None)

    def _pass_on(self) -> None:
        while self._waiting:
            user, queue = self._waiting.popitem(last=False)
            came = queue.popleft()
            if queue:
                self._waiting[user] = queue
            if not came.done():
                came.set_result(None)
                return
        self._free += 1
