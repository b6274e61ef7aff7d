"""``cloister kill``: one sandbox that cannot be ended does not keep the others alive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloister.cli import kill
from cloister.cli.fleet import Fleet, Listed, Usage
from cloister.cli.main import main
from cloister.errors import ConflictError, NotFoundError


class FakeFleet:
    """The sandboxes a, b and c, of which some cannot be ended."""

    is_of_all_teams = False

    def __init__(self, faults: dict[str, Exception]) -> None:
        self._faults = faults

    async def listed(self, *, with_ended: bool = False) -> list[Listed]:
        """See Fleet."""
        assert not with_ended
        common: dict[str, Any] = {
            "template": "base",
            "state": "running",
            "runtime": "",
            "started_at": 0.0,
            "end_at": None,
            "team": "",
            "metadata": {},
        }
        return [Listed(sandbox_id=name, **common) for name in "abc"]

    async def usage(self, sandbox_ids: Sequence[str]) -> dict[str, Usage]:
        """See Fleet."""
        raise NotImplementedError

    async def kill(self, sandbox_id: str) -> None:
        """See Fleet."""
        if sandbox_id in self._faults:
            raise self._faults[sandbox_id]


@pytest.mark.parametrize(
    ("words", "fault", "code", "told"),
    [
        (["--all"], ConflictError("it is busy"), 1, "cloister: b: it is busy\n"),
        (["--all"], NotFoundError("it has ended"), 0, ""),
        (["a", "b", "c"], ConflictError("it is busy"), 1, "cloister: b: it is busy\n"),
        (["a", "b", "c"], NotFoundError("there is no b"), 1, "cloister: there is no b\n"),
    ],
)
def test_the_others_are_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], fault: Exception, code: int, told: str
) -> None:
    """Those that can be ended are, and printed; the exit code is 1 if one could not be, but not if it ended by itself."""

    @asynccontextmanager
    async def open_fleet(_: object) -> AsyncIterator[Fleet]:
        yield FakeFleet({"b": fault})

    monkeypatch.setattr(kill, "open_fleet", open_fleet)
    assert main(["kill", *words]) == code
    assert capsys.readouterr() == ("a\nc\n", told)
