"""Capabilities and the registry: a runtime is found by its name, and says what it cannot do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import InvalidRequestError
from cloister.runtime.base import _WORDS, RuntimeCapabilities
from cloister.runtime.registry import Runtimes


def runtime(name: str, **methods: Any) -> Any:
    """One that has only these methods."""
    return cast("Any", SimpleNamespace(name=name, **methods))


def test_what_is_lacking_is_named() -> None:
    """All of it, in words, with the runtime's name."""
    capabilities = RuntimeCapabilities(freeze=True)
    capabilities.require("r", "freeze")
    with pytest.raises(InvalidRequestError, match="the runtime 'r' cannot read the disk of a sandbox or run the steps of a template build"):
        capabilities.require("r", "freeze", "open_disk", "run_steps")


def test_every_capability_has_words() -> None:
    """A new flag without them would fail only when it is missed."""
    assert _WORDS.keys() == vars(RuntimeCapabilities()).keys()


def test_a_runtime_is_found_by_name() -> None:
    """None means the default; an unknown name is refused with those that there are."""
    runtimes = Runtimes([runtime("one"), runtime("two")], "two")
    assert runtimes.choose("team", None).name == "two"
    assert runtimes.find("one").name == "one"
    with pytest.raises(InvalidRequestError, match="'three' is not available") as refused:
        runtimes.find("three")
    assert refused.value.hint == "available: one, two"
    with pytest.raises(InvalidRequestError):
        Runtimes([runtime("one")], "two")


def test_all_runtimes_are_asked() -> None:
    """Numbers of one kind are added, lines are put one after another."""
    one = runtime("one", prepared=lambda: {"agent": 1}, sweep=lambda _known: ["a"])
    two = runtime("two", prepared=lambda: {"agent": 2, "kernel": 1}, sweep=lambda _known: ["b"])
    runtimes = Runtimes([one, two], "one")
    assert runtimes.prepared() == {"agent": 3, "kernel": 1}
    assert runtimes.sweep(set) == ["a", "b"]
