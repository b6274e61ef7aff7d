"""The codes by which errors cross from the supervisor to the api process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cloister.processes.api_server  # every subclass of an error that the api process knows
from cloister.errors import CloisterError, NodeUnreachableError, UnavailableError, from_code


def _classes(of: type[CloisterError]) -> Iterator[type[CloisterError]]:
    yield of
    for child in of.__subclasses__():
        yield from _classes(child)


@pytest.mark.parametrize("kind", [UnavailableError, NodeUnreachableError])
def test_code_gives_its_own_class(kind: type[CloisterError]) -> None:
    """An error of the supervisor stays what it is, and does not become a subclass that says more."""
    assert type(from_code(kind.code, "x")) is kind


def test_no_two_classes_share_a_code() -> None:
    """A class without its own code would take the place of its parent in ``from_code``."""
    assert cloister.processes.api_server
    codes = [one.code for one in _classes(CloisterError)]
    assert sorted(codes) == sorted(set(codes))
