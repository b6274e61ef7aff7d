"""The sandboxes of one team, by the API with its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cloister.cli.fleet import Listed, Usage
from cloister.client.api import ApiClient
from cloister.errors import InvalidRequestError

__all__ = ["FleetOfTeam"]


class FleetOfTeam:
    """See :class:`~cloister.cli.fleet.Fleet`."""

    is_of_all_teams = False

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def listed(self, *, with_ended: bool = False) -> list[Listed]:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        if with_ended:
            raise InvalidRequestError(
                "the API does not list sandboxes that have ended", hint="on the server's host, root sees them: sudo cloister ps --all"
            )
        return [_from_api(one) for one in await self._api.list_sandboxes()]

    async def usage(self, sandbox_ids: Sequence[str]) -> dict[str, Usage]:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        found = await self._api.usage(sandbox_ids)
        return {
            sandbox_id: Usage(
                cpu_pct=one["cpuUsedPct"],
                mem_bytes=one["memUsed"],
                mem_limit_bytes=one["memTotal"],
                disk_bytes=one["diskUsed"],
                disk_limit_bytes=one["diskTotal"],
            )
            for sandbox_id, one in found.items()
        }

    async def kill(self, sandbox_id: str) -> None:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        await self._api.kill(sandbox_id)


def _from_api(one: Mapping[str, Any]) -> Listed:
    paused = one["state"] == "paused"
    return Listed(
        sandbox_id=one["sandboxID"],
        template=one.get("alias") or one["templateID"],
        state=one["state"],
        runtime=one.get("runtime", ""),
        started_at=_moment(one["startedAt"]),
        end_at=None if paused else _moment(one["endAt"]),
        team="",
        metadata=one["metadata"],
    )


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
