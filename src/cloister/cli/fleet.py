"""The sandboxes that a caller may see, for ``ps``, ``top`` and ``kill``: a team's by the API, or all of a server for its operator."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from cloister.cli.endpoint import find_server, is_operator, parse_pairs
from cloister.config.load import load
from cloister.errors import InvalidRequestError

__all__ = ["Fleet", "Listed", "Usage", "add_filters", "open_fleet", "wanted"]

STATES = ("running", "paused")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A sandbox in a list. Times are epoch seconds."""

    sandbox_id: str
    template: str
    state: str
    runtime: str
    """Empty if it is not known."""
    started_at: float
    end_at: float | None
    """When its lifetime ends, or when it ended; None while it is paused."""
    team: str
    """Empty in a list of the API, where all are of the caller's team."""
    metadata: Mapping[str, str]
    end: str = ""
    """Why it ended."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The newest sample of a sandbox. ``cpu_pct``: 100 is one processor."""

    cpu_pct: float
    mem_bytes: int
    mem_limit_bytes: int
    disk_bytes: int
    disk_limit_bytes: int


class Fleet(Protocol):
    """A set of sandboxes."""

    is_of_all_teams: bool

    async def listed(self, *, with_ended: bool = False) -> list[Listed]:
        """Every sandbox, the latest first."""

    async def usage(self, sandbox_ids: Sequence[str]) -> dict[str, Usage]:
        """By id; a sandbox that was not measured yet has none."""

    async def kill(self, sandbox_id: str) -> None:
        """End one. Raises: NotFoundError."""


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The options that choose sandboxes of a fleet."""
    text = "only those with this metadata; may be given several times"
    parser.add_argument("--metadata", action="append", default=[], metavar="NAME=VALUE", help=text)
    parser.add_argument("--state", choices=STATES, help="only those in this state (default: both)")
    parser.add_argument("--template", metavar="NAME", help="only those of this template")
    parser.add_argument("--team", metavar="NAME", help="only those of this team; for root on the server's host")


def wanted(args: argparse.Namespace) -> Callable[[Listed], bool]:
    """Whether a sandbox is among those that the options choose. Raises: InvalidRequestError."""
    metadata = parse_pairs("--metadata", args.metadata)
    if args.team is not None and not is_operator(args):
        raise InvalidRequestError("--team is for root on the server's host", hint="a key sees the sandboxes of its own team only")
    return lambda one: (
        (args.state is None or one.state == args.state)
        and (args.template is None or one.template == args.template)
        and (args.team is None or one.team == args.team)
        and metadata.items() <= one.metadata.items()
    )


@asynccontextmanager
async def open_fleet(args: argparse.Namespace) -> AsyncIterator[Fleet]:
    """The sandboxes of all teams for the operator, else those of the key's team."""
    if is_operator(args):
        from cloister.cli.fleet_of_server import FleetOfServer  # noqa: PLC0415 - a client needs neither database nor supervisor

        yield FleetOfServer(load(args, os.environ))
        return
    from cloister.cli.fleet_of_team import FleetOfTeam  # noqa: PLC0415 - the operator needs no HTTP: it is half of the command's start
    from cloister.client.api import connect  # noqa: PLC0415 - as above

    async with connect(find_server(args)) as api:
        yield FleetOfTeam(api)
