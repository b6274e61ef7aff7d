"""Threads for the making of sandboxes."""

from __future__ import annotations

import asyncio
import threading
import time

from cloister.node import lanes as lanes_module
from cloister.node.lanes import Lanes


async def test_one_template_holds_up_no_other() -> None:
    """However many creations of it wait, others and stock templates are made at once; its own wait for each other, and all are made."""
    lanes, event = Lanes(), threading.Event()
    stuck = [asyncio.create_task(lanes.run("hostile", lambda: event.wait(20))) for _ in range(200)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    assert await lanes.run("other", lambda: "made") == "made"
    assert await lanes.run(None, lambda: "made") == "made"
    assert time.monotonic() - began < 5
    assert not any(task.done() for task in stuck)
    event.set()
    assert await asyncio.gather(*stuck) == [True] * 200
    lanes.close()


async def test_as_many_lanes_as_zones() -> None:
    """Fifteen templates that hang leave room for stock templates, and each has its full share."""
    lanes, event, running = Lanes(), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        running.release()
        event.wait(20)

    stuck = [asyncio.create_task(lanes.run(f"t{number}", work)) for number in range(15) for _ in range(lanes_module._EACH)]
    for _ in stuck:
        assert await asyncio.to_thread(running.acquire, timeout=10)
    assert await lanes.run(None, lambda: "made") == "made"
    event.set()
    await asyncio.gather(*stuck)
    lanes.close()
