"""The first sandboxes of a build, asked for from its thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from cloister.errors import BuildError
from cloister.model.template import Template
from cloister.node.builds.cancellation import BuildCancellation
from cloister.node.builds.preparation import BuildPreparation
from framework.waiting import eventually, turns

TEMPLATE = Template(template_id="t", name="t", build_id="b", layers=())


class Node:
    """What is asked of the event loop's side."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.may_end = asyncio.Event()
        self.preparation = BuildPreparation(self.make_ahead, lambda build_id: self.log.append(f"end {build_id}"), self.with_unrecorded)

    async def make_ahead(self, build_id: str) -> None:
        """Until it may end."""
        self.log.append(f"make {build_id}")
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.log.append("cut off")
            raise
        self.log.append("ready")

    @contextlib.contextmanager
    def with_unrecorded(self, template: Template) -> Iterator[None]:
        """Note when it is known."""
        self.log.append(f"known {template.build_id}")
        yield
        self.log.append("forgotten")


def try_it(node: Node, fault: Exception | None = None) -> None:
    """A trial, until the node has been asked."""
    with node.preparation.during_trial(TEMPLATE):
        eventually(lambda: "make b" in node.log)
        if fault is not None:
            raise fault


async def test_what_was_begun_ahead_goes_on_after_a_trial_that_passed() -> None:
    """It is to finish by the preparation, which waits for it."""
    node = Node()
    await asyncio.to_thread(try_it, node)
    node.may_end.set()
    await asyncio.to_thread(node.preparation.prepare, TEMPLATE, BuildCancellation())
    assert node.log == ["known b", "make b", "forgotten", "ready", "make b", "ready"]


async def test_nothing_is_left_of_a_trial_that_failed() -> None:
    """The preparation is cancelled, and the sandboxes made ahead are ended."""
    node = Node()
    with pytest.raises(BuildError):
        await asyncio.to_thread(try_it, node, BuildError("it died"))
    await turns()
    assert sorted(node.log[2:]) == ["cut off", "end b"]


async def test_cancelled_build_does_not_wait() -> None:
    """It returns when it is cancelled."""
    node, cancellation = Node(), BuildCancellation()
    preparing = asyncio.create_task(asyncio.to_thread(node.preparation.prepare, TEMPLATE, cancellation))
    while not node.log:  # noqa: ASYNC110 - another thread asks
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cancellation.end, "enough")
    await asyncio.wait_for(preparing, 5)
