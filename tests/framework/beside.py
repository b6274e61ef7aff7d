"""Runs something beside a test: in a thread that has ended, and whose error was raised, before the test goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["beside"]

_T = TypeVar("_T")


@contextmanager
def beside(call: Callable[[], _T]) -> Iterator[Future[_T]]:
    """Call it in a thread, beside the block; it has ended after the block, which then raises its error."""
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(call)
        yield running
        running.result()
