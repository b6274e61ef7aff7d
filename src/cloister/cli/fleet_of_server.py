"""All sandboxes of the server of a data directory, for root on its host."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cloister.cli.fleet import Listed, Usage
from cloister.cli.recording import recorded
from cloister.config.settings import Settings
from cloister.errors import NotFoundError
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.processes.operator import end_sandbox, measure, read_sandboxes

__all__ = ["FleetOfServer"]


class FleetOfServer:
    """See :class:`~cloister.cli.fleet.Fleet`."""

    is_of_all_teams = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._team_ids: dict[str, str] = {}
        """Of each sandbox that was read, for the audit log."""

    async def listed(self, *, with_ended: bool = False) -> list[Listed]:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        rows = await read_sandboxes(self._settings, ended_since=0.0 if with_ended else time.time())
        self._team_ids |= {row.sandbox_id: row.team_id for row, _ in rows}
        return [_from_row(row, team) for row, team in rows if with_ended or row.state is not SandboxState.ENDED]

    async def usage(self, sandbox_ids: Sequence[str]) -> dict[str, Usage]:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        found = await measure(self._settings, sandbox_ids)
        return {
            sandbox_id: Usage(
                cpu_pct=one.samples[-1].cpu_used_pct,
                mem_bytes=one.samples[-1].mem_used_bytes,
                mem_limit_bytes=one.mem_limit_bytes,
                disk_bytes=one.samples[-1].disk_used_bytes,
                disk_limit_bytes=one.disk_total_bytes,
            )
            for sandbox_id, one in found.items()
        }

    async def kill(self, sandbox_id: str) -> None:
        """See :class:`~cloister.cli.fleet.Fleet`."""
        if sandbox_id not in self._team_ids:
            await self.listed()
        with recorded(self._settings, "sandbox.kill", sandbox_id) as change:
            change.team_id = self._team_ids.get(sandbox_id)
            if not await end_sandbox(self._settings, sandbox_id):
                raise NotFoundError(f"there is no sandbox {sandbox_id} on this server")


def _from_row(row: Sandbox, team: str) -> Listed:
    ended = row.state is SandboxState.ENDED
    end = "" if row.end_reason is None else f"{row.end_reason}{f': {row.end_message}' if row.end_message else ''}"
    return Listed(
        sandbox_id=row.sandbox_id,
        template=row.template,
        state=str(row.state),
        runtime=row.runtime or "",
        started_at=row.started_at,
        end_at=row.ended_at if ended else None if row.pause is not None else row.end_at,
        team=team,
        metadata=row.metadata,
        end=end,
    )
