"""Counts what sandboxes use, for each one and in total."""

from __future__ import annotations

from collections import Counter

__all__ = ["Bound"]


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
