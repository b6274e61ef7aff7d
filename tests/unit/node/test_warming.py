"""The first sandboxes of a build, asked for from its thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from cloister.errors import BuildError
from cloister.model.template import Template
from cloister.node.build_cancel import BuildCancellation
from cloister.node.warming import Warming
from framework.waiting import eventually, turns

TEMPLATE = Template(template_id="t", name="t", build_id="b", layers=())


class Node:
    """What is asked of the event loop's side."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.may_end = asyncio.Event()
        self.warming = Warming(self.warm, lambda build_id: self.log.append(f"cool {build_id}"), self.lending)

    async def warm(self, build_id: str) -> None:
        """Until it may end."""
        self.log.append(f"warm {build_id}")
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.log.append("cut off")
            raise
        self.log.append("ready")

    @contextlib.contextmanager
    def lending(self, template: Template) -> Iterator[None]:
        """Note when it is known."""
        self.log.append(f"lend {template.build_id}")
        yield
        self.log.append("take back")


def try_it(node: Node, fault: Exception | None = None) -> None:
    """A trial, until the node has been asked."""
    with node.warming.ahead(TEMPLATE):
        eventually(lambda: "warm b" in node.log)
        if fault is not None:
            raise fault


async def test_what_was_begun_ahead_goes_on_after_a_trial_that_passed() -> None:
    """It is to finish by the preparation, which waits for it."""
    node = Node()
    await asyncio.to_thread(try_it, node)
    node.may_end.set()
    await asyncio.to_thread(node.warming.prepare, TEMPLATE, BuildCancellation())
    assert node.log == ["lend b", "warm b", "take back", "ready", "warm b", "ready"]


async def test_nothing_is_left_of_a_trial_that_failed() -> None:
    """What was begun is cut off, then what is ready is ended."""
    node = Node()
    with pytest.raises(BuildError):
        await asyncio.to_thread(try_it, node, BuildError("it died"))
    await turns()
    assert sorted(node.log[2:]) == ["cool b", "cut off"]


async def test_cancelled_build_does_not_wait() -> None:
    """It returns when it is cancelled."""
    node, cancellation = Node(), BuildCancellation()
    preparing = asyncio.create_task(asyncio.to_thread(node.warming.prepare, TEMPLATE, cancellation))
    while not node.log:  # noqa: ASYNC110 - another thread asks
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cancellation.end, "enough")
    await asyncio.wait_for(preparing, 5)
