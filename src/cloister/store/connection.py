"""The database connection as the SQL of the store uses it, the same for SQLite and PostgreSQL.

The SQL is the common part of both: parameters are ``?`` or ``:name``, switches are 0 and 1, JSON is text. A connection is in autocommit
mode; :meth:`Connection.whole` makes several statements one transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Connection", "Rows", "Runner", "Values"]

_T = TypeVar("_T")
Values = Sequence[Any] | Mapping[str, Any]


class Rows(Protocol):
    """What a statement did or found. A row is read by names; ``dict(row)`` is a copy."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""

    def fetchall(self) -> list[Any]:
        """All rows."""

    def fetchone(self) -> Any:
        """The next row; None: there is none."""


class Connection(Protocol):
    """A connection, used by one thread at a time. Its methods raise the database's own errors."""

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        """Execute a statement."""

    def executemany(self, sql: str, values: Sequence[Values], /) -> object:
        """Execute a statement once for each element."""

    def whole(self, work: Callable[[Connection], _T]) -> _T:
        """The result of ``work``, all of whose statements take effect, or none. Not within another one. No transaction stays open."""

    def lock(self, name: str) -> None:
        """Within :meth:`whole`: wait until no other transaction has locked the name, and lock it until the end of this one."""


class Runner(Protocol):
    """Runs a function on a connection, in a thread of the store's, and translates errors to the store's."""

    def __call__(self, work: Callable[[Connection], _T], /) -> Awaitable[_T]:
        """The result of ``work``."""
