"""Attacks on the processes that serve volumes: by a team that wants all of them, and by one that does not end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError
from cloister.node import volume_contents
from cloister.node.volume_contents import VolumeContents
from cloister.node.volumes import NodeVolumes


class NoDisks:
    """Every volume is there."""

    def filling(self, _volume_id: str) -> None:
        """Nothing is known."""

    def let_go(self, _user: str) -> None:
        """Nothing is held."""


@pytest.fixture
def may_end() -> Iterator[threading.Event]:
    """Set when the processes end, whatever they are told."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def contents(tmp_path: Path, may_end: threading.Event) -> VolumeContents:
    """With processes that serve nothing."""

    def run(*_arguments: object) -> int:
        may_end.wait()
        return 0

    made = VolumeContents(tmp_path / "content", cast("Any", NoDisks()), run, lambda: cast("Any", None))
    made.open()
    return made


def test_team_cannot_keep_anothers_volumes_from_being_served(contents: VolumeContents) -> None:
    """A team with connections to many volumes leaves room for another team, and may open more to those that are served."""
    with ExitStack() as stack:

        def dial(volume_id: str, team_id: str) -> socket.socket:
            return stack.enter_context(contents.dial(volume_id, team_id))

        for number in range(16):
            dial(f"volume{number}", "team")
        with pytest.raises(NoCapacityError, match="of the team"):
            dial("volume16", "team")
        dial("volume0", "team")
        dial("other", "another")


def test_taken_over_process_cannot_keep_the_node_from_its_end(contents: VolumeContents, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a stop decides whether sandboxes are kept."""
    monkeypatch.setattr(volume_contents, "_END_TIMEOUT_S", 0.01)
    node = NodeVolumes(cast("Any", NoDisks()), contents, list)
    with contents.dial("volume", "team"):
        node.close()
