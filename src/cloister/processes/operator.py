"""Acts of a host's operator on all sandboxes of a server: list them, measure them, end them. Needs root.

Reads the server's database and asks its supervisor, which serves root. A supervisor that is asked sends its events to no other than the api
process, so that process learns of an end as of any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from cloister.cluster.base import NodeClient
from cloister.config.settings import Settings
from cloister.errors import CloisterError, NodeUnreachableError, NotFoundError
from cloister.linux.identity import use_rights_of_owner
from cloister.model.node import SandboxMetrics
from cloister.model.sandbox import Sandbox
from cloister.nodewire.requests import AskMetrics, Kill
from cloister.processes.node_calls import ask_node, supervisor_socket
from cloister.store.opening import open_store, sqlite_path

__all__ = ["end_sandbox", "measure", "read_sandboxes"]

_ANSWER_S = 30.0
_AT_ONCE = 16
"""Questions to the supervisor at a time: it serves the api process too."""


async def read_sandboxes(settings: Settings, *, ended_since: float) -> list[tuple[Sandbox, str]]:
    """Every sandbox that has not ended, or ended at that time or later, and the name of its team; the latest first.

    Raises: NotFoundError: no server has run on the data directory.
    """
    path = sqlite_path(settings.data_dir)
    if settings.database_url is None and not path.exists():
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?")
    store = await open_store(settings.data_dir, settings.database_url, use_rights_of_owner)
    try:
        names = {team.team_id: team.name for team in await store.teams.list_teams()}
        rows = await store.list_sandboxes(ended_since=ended_since)
    finally:
        await store.close()
    return [(row, names.get(row.team_id, row.team_id)) for row in sorted(rows, key=lambda row: -row.started_at)]


async def measure(settings: Settings, sandbox_ids: Sequence[str]) -> dict[str, SandboxMetrics]:
    """The newest sample of each sandbox that has one; of none, if the supervisor does not answer."""
    found: dict[str, SandboxMetrics] = {}
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask_about(node: NodeClient, sandbox_id: str) -> None:
        async with places:
            with contextlib.suppress(CloisterError):  # it has ended meanwhile
                found[sandbox_id] = await node.metrics(AskMetrics(sandbox_id, newest=1))

    async def ask(node: NodeClient) -> None:
        await asyncio.gather(*(ask_about(node, one) for one in sandbox_ids))

    with contextlib.suppress(NodeUnreachableError):
        await ask_node(supervisor_socket(settings), ask, timeout_s=_ANSWER_S)
    return {one: metrics for one, metrics in found.items() if metrics.samples}


async def end_sandbox(settings: Settings, sandbox_id: str) -> bool:
    """End a sandbox of any team; False if there is none of that id. Raises: NodeUnreachableError."""
    return await ask_node(supervisor_socket(settings), lambda node: node.kill(Kill(sandbox_id)), timeout_s=_ANSWER_S)
