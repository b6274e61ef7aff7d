"""A creation that is given up leaves nothing, whenever that happens."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import StartFailedError
from cloister.node.creation.creator import Creator
from cloister.node.creation.pool import PoolKey, PoolSize, ReadySandbox
from cloister.node.creation.steps import Created
from framework.waiting import turns


class SlowSteps:
    """Steps whose sandboxes take a while to start and to end."""

    start_timeout_s = 5.0

    def __init__(self, fault: Exception | None = None) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.log: list[str] = []
        self._fault = fault

    def take_start(self, created: Created, *, is_for_client: bool) -> Created:
        """See :class:`CreationSteps`."""
        self.began.set()
        assert self.go_on.wait(10)
        self.log.append(f"started, for a client {is_for_client}")
        if self._fault is not None:
            raise self._fault
        return created

    def discard(self, sandbox_id: str, _sandbox: object) -> None:
        """See :class:`CreationSteps`."""
        time.sleep(0.05)
        self.log.append(f"discarded {sandbox_id}")


@pytest.mark.parametrize("fault", [None, StartFailedError("it died")])
async def test_creation_given_up_while_it_starts_leaves_nothing(fault: Exception | None) -> None:
    """The thread that takes the outcome ends first, then the sandbox does; a second cancellation changes nothing."""
    steps = SlowSteps(fault)
    creator = Creator(cast("Any", steps), PoolSize(0), admission=cast("Any", None), live=cast("Any", None), recent=cast("Any", None))
    reader, writer = os.pipe()
    os.write(writer, b"x")
    record, sandbox = cast("Any", SimpleNamespace(sandbox_id="s")), cast("Any", SimpleNamespace(starting=reader))
    waiting = asyncio.create_task(creator._wait_started(Created(record=record, sandbox=sandbox)))
    assert await asyncio.to_thread(steps.began.wait, 5)
    for _ in range(2):
        waiting.cancel()
        await turns()
    steps.go_on.set()
    await creator.stop()
    await asyncio.gather(waiting, return_exceptions=True)
    creator.close()
    os.close(reader)
    os.close(writer)
    assert steps.log == ["started, for a client True", "discarded s"]


async def test_an_id_is_used_anew_when_its_ready_sandbox_is_gone() -> None:
    """Else the end of the dead one would take the control group, the disk and the journal entry of the new one."""
    steps = SlowSteps()
    creator = Creator(cast("Any", steps), PoolSize(0), admission=cast("Any", None), live=cast("Any", None), recent=cast("Any", None))
    creator._unclaimed.add("s")
    record, sandbox = cast("Any", SimpleNamespace(sandbox_id="s")), cast("Any", None)
    dead = ReadySandbox(key=PoolKey("t"), build_id="", zone_key="", record=record, sandbox=sandbox)
    ending = asyncio.create_task(creator.discard_ready(dead))
    assert await creator._claim("s") is None
    assert steps.log == ["discarded s"]
    await ending
    await creator.stop()
    creator.close()
