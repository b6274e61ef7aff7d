"""The word that a build is to end: it reaches what the build does just then, once, and nothing after that."""

from __future__ import annotations

import threading
import time

import pytest

from cloister.errors import BuildError
from cloister.node.builds.cancellation import BuildCancellation


def test_the_first_reason_holds() -> None:
    """Whoever ends a build first says why; before that a check passes."""
    cancellation = BuildCancellation()
    cancellation.check()
    assert cancellation.why is None
    cancellation.end("cancelled")
    cancellation.end("too late")
    with pytest.raises(BuildError, match=r"^cancelled$"):
        cancellation.check()


def test_what_runs_is_stopped_once() -> None:
    """An end calls every open context's stop once, although one of them fails, and none of a context that was left."""
    cancellation, calls = BuildCancellation(), list[str]()

    def fail() -> None:
        calls.append("fail")
        raise OSError("no")

    with cancellation.calling(lambda: calls.append("left")):
        pass
    with cancellation.calling(fail), cancellation.calling(lambda: calls.append("open")):
        cancellation.end("x")
        cancellation.end("y")
    assert sorted(calls) == ["fail", "open"]


def test_a_late_context_is_stopped_at_once() -> None:
    """An operation that begins after the end is stopped before it is used."""
    cancellation, calls = BuildCancellation(), list[str]()
    cancellation.end("x")
    with cancellation.calling(lambda: calls.append("at once")):
        assert calls == ["at once"]


def test_a_context_waits_for_a_stop_under_way() -> None:
    """A context is not left while its stop still runs, so that the stop meets only what the context held."""
    cancellation, order = BuildCancellation(), list[str]()
    began = threading.Event()

    def stop() -> None:
        began.set()
        time.sleep(0.1)
        order.append("stopped")

    with cancellation.calling(stop):
        ending = threading.Thread(target=cancellation.end, args=("x",))
        ending.start()
        assert began.wait(5)
    order.append("left")
    ending.join(5)
    assert order == ["stopped", "left"]
