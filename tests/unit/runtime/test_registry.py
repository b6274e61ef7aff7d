"""The runtimes of a node: one that fails does not keep the others from being asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from cloister.runtime.registry import Runtimes

if TYPE_CHECKING:
    from cloister.runtime.base import Runtime


class _Asked:
    """As much of a runtime as the registry asks; ``fault`` is what it raises."""

    def __init__(self, name: str, fault: Exception | None = None) -> None:
        self.name = name
        self.asked: list[str] = []
        self._fault = fault

    def _answer(self, what: str) -> list[str]:
        self.asked.append(what)
        if self._fault is not None:
            raise self._fault
        return [f"{what} by {self.name}"]

    def sweep(self, _known: Callable[[], set[str]]) -> list[str]:
        return self._answer("sweep")

    def let_go(self, _idle_s: float) -> list[str]:
        return self._answer("let_go")

    def stop_preparing(self) -> None:
        self._answer("stop_preparing")

    def stop(self) -> None:
        self._answer("stop")


ALL = {
    "sweep": lambda runtimes: runtimes.sweep(set),
    "let_go": lambda runtimes: runtimes.let_go(1.0),
    "stop_preparing": lambda runtimes: runtimes.stop_preparing(),
    "stop": lambda runtimes: runtimes.stop(),
}


@pytest.mark.parametrize("what", ALL)
def test_all_are_asked_when_one_fails(what: str) -> None:
    """The second runtime is asked, and the caller hears of the first one's fault."""
    fault = OSError("of the first")
    first, second = _Asked("first", fault), _Asked("second")
    runtimes = Runtimes([cast("Runtime", first), cast("Runtime", second)], "first")
    with pytest.raises(OSError, match="of the first"):
        ALL[what](runtimes)
    assert (first.asked, second.asked) == ([what], [what])


def test_answers_of_all_are_joined() -> None:
    """A sweep says what each runtime removed."""
    runtimes = Runtimes([cast("Runtime", _Asked("first")), cast("Runtime", _Asked("second"))], "second")
    assert runtimes.sweep(set) == ["sweep by first", "sweep by second"]
