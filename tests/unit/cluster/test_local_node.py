"""The client of the local supervisor: creations that a restart of the supervisor cut off."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.cluster.local import LocalNode
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState, transition
from cloister.nodewire.requests import SandboxRef

CREATING = SandboxRecord(
    sandbox_id="a" * 20, template="t", runtime="r", state=SandboxState.CREATING, started_at=1.0, end_at=2.0, limits=Limits()
)
RUNNING = transition(CREATING, SandboxState.RUNNING)
PAUSING = transition(RUNNING, SandboxState.PAUSING)
PAUSED = transition(PAUSING, SandboxState.PAUSED)


@dataclass
class Answers:
    """A node that answers the records in turn."""

    left: list[SandboxRecord] = field(default_factory=list)

    async def get(self, _request: SandboxRef) -> SandboxRecord:
        """The next one."""
        return self.left.pop(0)


@pytest.mark.parametrize("made", [RUNNING, PAUSING, PAUSED])
async def test_creation_is_complete(tmp_path: Path, made: SandboxRecord) -> None:
    """It waits while the sandbox is being made, and not until one that is paused again runs."""
    node = LocalNode(tmp_path / "none.sock", call_timeout_s=5.0)
    node.calls = cast("NodeClient", Answers([CREATING, CREATING, made]))
    assert await node._resolve_create(SandboxRequest(sandbox_id=made.sandbox_id, template="t", end_at=2.0)) == made
