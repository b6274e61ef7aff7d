"""Threads for creations."""

from __future__ import annotations

import asyncio
import threading
import time

from cloister.node.creation import bulkheads as bulkheads_module
from cloister.node.creation.bulkheads import Bulkheads


async def test_one_template_holds_up_no_other() -> None:
    """However many creations of it wait, others and stock templates are made at once; its own wait for each other, and all are made."""
    bulkheads, event = Bulkheads(), threading.Event()
    begun = threading.Event()

    def hang() -> bool:
        begun.set()
        return event.wait(20)

    stuck = [asyncio.create_task(bulkheads.make(("hostile", "t"), hang)) for _ in range(200)]
    assert await asyncio.to_thread(begun.wait, 10)
    began = time.monotonic()
    assert await bulkheads.make(("other", "t"), lambda: "made") == "made"
    assert await bulkheads.make(None, lambda: "made") == "made"
    assert time.monotonic() - began < 5
    assert not any(task.done() for task in stuck)
    event.set()
    assert await asyncio.gather(*stuck) == [True] * 200
    bulkheads.close()


async def test_there_are_threads_for_every_zone() -> None:
    """Fifteen templates that hang leave room for stock templates, and each has its full share."""
    bulkheads, event, running = Bulkheads(), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        running.release()
        event.wait(20)

    teams = [f"team{number}" for number in range(15) for _ in range(bulkheads_module._COMPARTMENT_THREADS)]
    stuck = [asyncio.create_task(bulkheads.make(("zone", team), work)) for team in teams]
    for _ in stuck:
        assert await asyncio.to_thread(running.acquire, timeout=10)
    assert await bulkheads.make(None, lambda: "made") == "made"
    event.set()
    await asyncio.gather(*stuck)
    bulkheads.close()
