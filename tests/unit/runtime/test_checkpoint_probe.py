"""The lines of the log that tell of checkpoints when a node starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import UnavailableError
from cloister.runtime.namespace.checkpoint import checkpoints as module
from cloister.runtime.namespace.checkpoint.checkpoints import Checkpoints
from cloister.runtime.namespace.checkpoint.criu import INSTALL_HINT, Criu


def proved(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> list[tuple[str, dict[str, object]]]:
    """The lines that are logged when the first dump fails with ``fault``."""
    monkeypatch.setattr(module, "find_criu", lambda *_: Criu(argv=("criu",), version="5.0"))
    told: list[tuple[str, dict[str, object]]] = []

    def attempt() -> None:
        raise fault

    def tell(event: str, fields: Mapping[str, object]) -> None:
        told.append((event, dict(fields)))

    monkeypatch.setattr(module, "KernelFacts", lambda: None)  # which needs root
    resources = SimpleNamespace(store_dir=Path("/s"), space=None)
    Checkpoints("auto", cast("Any", resources), cast("Any", None), b"").prove("trial", attempt, tell)
    return told


def test_the_remedy_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault's own, beside its cause; CRIU's, where the fault has none."""
    assert proved(monkeypatch, UnavailableError("no room", hint="free some")) == [
        ("checkpoint.unavailable", {"error": "no room", "hint": "free some"})
    ]
    assert proved(monkeypatch, OSError("odd")) == [("checkpoint.unavailable", {"error": "odd", "hint": INSTALL_HINT})]
