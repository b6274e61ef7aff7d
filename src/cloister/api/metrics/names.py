"""Bounds the values of a label that come from outside: names of teams and templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["OTHER", "BoundedNames"]

OTHER = "other"
_MOST = 50


class BoundedNames:
    """The first ``most`` names keep theirs for the life of the process, so a scraper sees no more in all. The rest is ``other``."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: set[str] = set()

    def bound(self, counts: Mapping[tuple[str, str], int]) -> Counter[tuple[str, str]]:
        """The ``counts`` by name and state, with new names in the order of their counts while there is room."""
        if len(self._known) < self._most:
            totals = Counter[str]()
            for (name, _), count in counts.items():
                totals[name] += count
            new = [name for name, _ in totals.most_common() if name not in self._known]
            self._known.update(new[: self._most - len(self._known)])
        bounded = Counter[tuple[str, str]]()
        for (name, state), count in counts.items():
            bounded[name if name in self._known else OTHER, state] += count
        return bounded
