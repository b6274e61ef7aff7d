"""The limits that this node enforces on requests of the api process, which may be compromised (I6)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cloister.errors import InvalidRequestError, NoCapacityError, QuotaExceededError
from cloister.linux.meminfo import memory_mib
from cloister.model.build import BuildRequest
from cloister.model.resources import Limits

__all__ = ["NodeLimits", "host_limits", "with_slack"]

_REST = {"inodes": 50_000_000, "pids": 32_768, "open_files": 1_048_576, "output_mib": 65_536}
"""Upper bounds of the limits that have no setting. No sandbox needs more."""
_CLOCK_SLACK_S = 60.0
_WORDS = {"cpu_count": "processors", "mem_mib": "MiB of memory", "disk_mib": "MiB of disk"}


@dataclass(frozen=True, kw_only=True)
class NodeLimits:
    """Upper bounds of what one sandbox, one team and all teams may have on this node."""

    cpu_count: float
    mem_mib: int
    disk_mib: int
    team_disk_mib: int | None = None
    """Disk of a team's live sandboxes together. Each counts with the whole size of its disk. None: no bound."""
    lifetime_s: float = 86_400.0
    """The longest time between a request and the deadline that it sets."""
    sandboxes: int = 7_680
    """Sandboxes of all teams that live or are being created."""
    team_sandboxes: int = 1_000
    """Sandboxes of one team."""
    paused: int = 2_000
    """Paused sandboxes of all teams. Together with ``sandboxes`` less than the ends that a node remembers (``node/ends.py``)."""
    team_paused: int = 1_000
    """Paused sandboxes of one team."""
    paused_s: float = 30 * 86_400.0
    """The longest time that a sandbox stays paused."""

    def check_deadline(self, end_at: float, now: float) -> None:
        """Raises: InvalidRequestError: ``end_at`` is no time, or a later one than a sandbox may have. A time in the past is allowed."""
        if not 0 <= end_at <= now + self.lifetime_s + _CLOCK_SLACK_S:  # false for NaN
            raise InvalidRequestError(
                f"a sandbox lives for {self.lifetime_s:g} seconds at most from now on", hint="the server's setting max_timeout_s"
            )

    def check_count(self, team_has: int, all_have: int) -> None:
        """Raises: QuotaExceededError, NoCapacityError: the team, or the server, has all sandboxes that it may have."""
        if team_has >= with_slack(self.team_sandboxes):
            raise QuotaExceededError(f"the team has {team_has} live sandboxes", hint="the server's setting max_sandboxes_per_team")
        if all_have >= self.sandboxes:
            raise NoCapacityError(f"the server has {all_have} live sandboxes, its limit", hint="the server's setting max_sandboxes")

    def check_paused(self, team_has: int, all_have: int) -> None:
        """Raises: QuotaExceededError, NoCapacityError: the team, or the server, has all paused sandboxes that it may have."""
        if team_has >= with_slack(self.team_paused):
            hint = "kill or resume some of them (the server's setting max_paused_per_team)"
            raise QuotaExceededError(f"the team has {team_has} paused sandboxes", hint=hint)
        if all_have >= self.paused:
            raise NoCapacityError(f"the server has {all_have} paused sandboxes, its limit", hint="kill or resume some of them")

    def check_team(self, has_mib: int, wanted_mib: int) -> None:
        """Raises: QuotaExceededError: a team that has ``has_mib`` of disk may not have ``wanted_mib`` more."""
        if self.team_disk_mib is not None and has_mib + wanted_mib > self.team_disk_mib:
            raise QuotaExceededError(
                f"the team's sandboxes have {has_mib} MiB of disk, and {wanted_mib} more would exceed its limit of {self.team_disk_mib}",
                hint="kill some, or let them expire (the server's setting max_disk_mib_per_team)",
            )

    def check(self, asked: Limits | BuildRequest) -> None:
        """Raises: InvalidRequestError: one of the ``asked`` limits is higher than this node allows. None asks for no limit of its own."""
        for name, words in _WORDS.items():
            wanted, most = getattr(asked, name), getattr(self, name)
            if wanted is not None and wanted > most:
                raise InvalidRequestError(
                    f"{wanted:g} {words} are more than the {most:g} that one sandbox may have here", hint=f"the server's setting max_{name}"
                )
        for name, most in _REST.items():
            if (wanted := getattr(asked, name, 0)) > most:
                raise InvalidRequestError(f"a limit of {wanted} {name.replace('_', ' ')} is more than the {most} that one sandbox may have")


def host_limits(
    defaults: Limits, cpu_count: float | None, mem_mib: int | None, disk_mib: int, team_disk_mib: int | None = None
) -> NodeLimits:
    """The bounds from the settings. Where a setting is None, the size of the host, but never less than a sandbox has by default."""
    return NodeLimits(
        cpu_count=cpu_count or max(float(os.cpu_count() or 1), defaults.cpu_count),
        mem_mib=mem_mib or max(memory_mib("MemTotal"), defaults.mem_mib),
        disk_mib=max(disk_mib, defaults.disk_mib),
        team_disk_mib=team_disk_mib,
    )


def with_slack(quota: int) -> int:
    """The quota plus some slack. The api process enforces it exactly, but sandboxes that it counts as ended may still be ending here."""
    return quota + quota // 16 + 2
