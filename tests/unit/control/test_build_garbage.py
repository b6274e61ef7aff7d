"""A clean-up of builds does what it can while the node is away."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.cluster.one import OneNode
from cloister.control.builds.garbage import BuildGarbage
from cloister.errors import NodeUnreachableError

DAY_S = 86_400


async def test_a_node_that_is_away_keeps_only_its_own_part_from_being_done() -> None:
    """Builds that never started end and uploads are pruned; builds that started wait for the node."""
    old = time.time() - 2 * DAY_S
    unfinished = [
        SimpleNamespace(build_id="never started", node_id=None, created_at=old, updated_at=old, started_at=None),
        SimpleNamespace(build_id="new", node_id=None, created_at=time.time(), updated_at=old, started_at=None),
        SimpleNamespace(build_id="of a node", node_id="node_gone", created_at=old, updated_at=old, started_at=old),
    ]
    done: list[str] = []

    async def rows() -> list[SimpleNamespace]:
        return unfinished

    async def away() -> None:
        raise NodeUnreachableError("it restarts")

    async def finish(build_id: str, *_how: object) -> None:
        done.append(f"ended {build_id}")

    async def prune() -> None:
        done.append("pruned")

    garbage = BuildGarbage(
        OneNode(cast("Any", SimpleNamespace(ping=away))),
        cast("Any", SimpleNamespace(list_unfinished_builds=rows)),
        cast("Any", SimpleNamespace(finish=finish)),
        cast("Any", None),
        cast("Any", None),
        cast("Any", SimpleNamespace(prune=prune)),
    )
    with pytest.raises(NodeUnreachableError):
        await garbage.prune()
    assert done == ["ended never started", "pruned"]
