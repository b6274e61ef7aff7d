"""What is given up while it starts is ended, whenever that happens."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import StartFailedError
from cloister.node.maker import Maker
from cloister.node.pool import PoolSize


class SlowCreator:
    """Whose sandboxes take a while to be finished and to be ended."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.log: list[str] = []
        self._fault = fault

    def finish(self, record: Any, _sandbox: object, *, runs: bool) -> Any:
        """See :class:`Creator`."""
        self.began.set()
        assert self.go_on.wait(10)
        self.log.append(f"finished, runs {runs}")
        if self._fault is not None:
            raise self._fault
        return record

    def discard(self, sandbox_id: str, _sandbox: object) -> None:
        """See :class:`Creator`."""
        time.sleep(0.05)
        self.log.append(f"discarded {sandbox_id}")


@pytest.mark.parametrize(
    ("fault", "log"),
    [(None, ["finished, runs True", "discarded s"]), (StartFailedError("it died"), ["finished, runs True"])],
)
async def test_creation_given_up_while_it_is_finished_leaves_nothing(fault: Exception | None, log: list[str]) -> None:
    """What failed by itself has left nothing already; a second cancellation changes nothing."""
    creator = SlowCreator(fault)
    maker = Maker(cast("Any", creator), cast("Any", SimpleNamespace(start_timeout_s=5.0)), lambda _key: True, PoolSize(0))
    reader, writer = os.pipe()
    os.write(writer, b"x")
    record, sandbox = cast("Any", SimpleNamespace(sandbox_id="s")), cast("Any", SimpleNamespace(starting=reader))
    waiting = asyncio.create_task(maker._wait_started(record, sandbox, runs=True))
    assert await asyncio.to_thread(creator.began.wait, 5)
    for _ in range(2):
        waiting.cancel()
        await asyncio.sleep(0.02)
    creator.go_on.set()
    await maker.stop()
    await asyncio.gather(waiting, return_exceptions=True)
    maker.close()
    os.close(reader)
    os.close(writer)
    assert creator.log == log
