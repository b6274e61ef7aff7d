"""Templates asked for of late are made ready when the server starts again."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloister.errors import TemplateNotFoundError
from cloister.node import recent_templates as recent_module
from cloister.node.recent_templates import RecentTemplates

ONE, TWO, THREE, FOUR = (str(uuid.UUID(int=number, version=4)) for number in range(1, 5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where they are kept."""
    return tmp_path / "recent.json"


async def warmed(recent: RecentTemplates, *always: str) -> list[str]:
    """What is made ready, in order."""
    asked: list[str] = []

    async def warm(template: str) -> None:
        asked.append(template)
        if template == TWO:
            raise TemplateNotFoundError("it was dropped")

    await recent.warm(always, warm)
    return asked


async def test_the_last_three_builds_outlive_a_restart(path: Path) -> None:
    """The newest first, after those that always are; one that is gone holds up no other. Stock templates are not kept."""
    recent = RecentTemplates(path)
    for template in (ONE, TWO, "base", THREE, FOUR):
        recent.note(template)
    assert await warmed(RecentTemplates(path), "stock") == ["stock", FOUR, THREE, TWO]


async def test_a_build_that_was_dropped_is_forgotten(path: Path) -> None:
    """Its first failure is the last one, also after a restart; a stock template that is not there is tried and told of each time."""
    recent = RecentTemplates(path)
    recent.note(TWO)
    with capture_logs() as logs:
        assert await warmed(RecentTemplates(path), "base") == ["base", TWO]
    assert [one for one in logs if one["event"] == "template.not_warm"] == []
    assert await warmed(RecentTemplates(path), TWO) == [TWO]
    with capture_logs() as logs:
        await warmed(recent := RecentTemplates(path), TWO)
    assert [one["template"] for one in logs] == [TWO]
    assert recent.newest() == []


async def test_what_was_asked_for_days_ago_is_not_made_ready(path: Path) -> None:
    """A day at most."""
    path.write_text(json.dumps({ONE: time.time() - 90_000, TWO: time.time() - 80_000}))
    assert await warmed(RecentTemplates(path)) == [TWO]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"../x": 1}', json.dumps({ONE: "yesterday"}), json.dumps({ONE: None})])
async def test_a_broken_file_is_no_fault(path: Path, text: str) -> None:
    """Nothing is made ready then."""
    path.write_text(text)
    assert await warmed(RecentTemplates(path)) == []


def test_the_file_is_not_written_for_each_creation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute, and for a template that is new to it."""
    written: list[str] = []
    monkeypatch.setattr(recent_module, "write_whole", lambda _path, text: written.append(text))
    recent = RecentTemplates(path)
    for _ in range(100):
        recent.note(ONE)
    assert len(written) == 1
    recent.note(TWO)
    assert len(written) == 2


def test_a_full_disk_is_no_fault(tmp_path: Path) -> None:
    """The creation goes on."""
    RecentTemplates(tmp_path / "gone" / "recent.json").note(ONE)
