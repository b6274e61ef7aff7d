"""Transactions of several statements on the store's connection, which is in autocommit mode.

Invariant: no transaction stays open. All statements of the process use one connection, so later changes would become part of it, and be
lost with it at the end of the process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_transaction"]

_T = TypeVar("_T")


def in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """The result of ``work``, all of whose statements take effect, or none. Raises: as ``work``; sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk, for one, has ended it (sqlite.org/lang_transaction.html)
            connection.execute("ROLLBACK")
        raise
    return result
