"""``cloister team create|list|show|limit|remove``: teams, their limits, and their use of them.

Works on the store, whether the server runs or not. A running server reads a team's limits there for each creation. Only a removal is the
running server's own work, because it has the sandboxes: the command asks it by the API, with an admin key that lives for that long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from cloister.cli.moments import moment
from cloister.cli.opened import open_store
from cloister.cli.recording import recorded
from cloister.config.client_env import read_client_env
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.control.keys import Keys
from cloister.control.teams import Teams, check_bounds
from cloister.errors import InvalidRequestError, UnavailableError, from_code
from cloister.model.team import LIMITS, Team, TeamLimits, TeamUse
from cloister.model.usage import use_of
from cloister.node.instance import is_served
from cloister.processes.policies import sandbox_policy
from cloister.store.base import Store

__all__ = ["add_options", "run"]

_CALL_S = 120.0
_DEFAULT = "default"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="create a team")
    create.add_argument("team", metavar="NAME", help="its name")
    listing = actions.add_parser("list", help="list teams with their use")
    show = actions.add_parser("show", help="show a team: its limits, its use of them, and what else it has")
    limit = actions.add_parser("limit", help="change limits of a team, from the next creation on")
    remove = actions.add_parser("remove", help="remove a team with its keys, templates, snapshots and secrets")
    remove.add_argument("--kill", action="store_true", help="kill its sandboxes; without it, a team with sandboxes is not removed")
    for action in (show, limit, remove):
        action.add_argument("team", metavar="TEAM", help="its name or id")
    for action in (create, limit):
        for name, known in LIMITS.items():
            action.add_argument(_option(name), metavar="N", dest=name, help=f"{known.what}; `{_DEFAULT}` takes the team's own limit away")
    for action in (create, listing, show, limit, remove):
        action.add_argument("--json", action="store_true", help="print JSON")
        add_arguments(action, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return asyncio.run(_run(args, load(args, os.environ)))


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    async with open_store(settings) as store:
        if args.action == "list":
            teams = [await _told(store, team, settings) for team in await Teams(store).list()]
            print(json.dumps(teams, indent=1) if args.json else _table(teams))
            return 0
        if args.action == "remove":
            removed = await _remove(args, store, settings)
            print(json.dumps(removed, indent=1) if args.json else _removal(removed))
            return 0
        told = await _told(store, await _changed(args, store, settings), settings)
        print(json.dumps(told, indent=1) if args.json else _details(told))
    return 0


async def _changed(args: argparse.Namespace, store: Store, settings: Settings) -> Team:
    """The team of the command, made or changed as it says."""
    teams, bounds = Teams(store), sandbox_policy(settings).bounds
    if args.action == "create":
        limits = TeamLimits().changed(_changes(args))
        check_bounds(limits, bounds)
        with recorded(settings, "team.create") as change:
            team = await teams.create(args.team, limits)
            change.object_id = change.team_id = team.team_id
        return team
    team = await teams.find(args.team)
    if args.action == "limit":
        if not (changes := _changes(args)):
            raise InvalidRequestError("no limit is given", hint=f"give one or more of {', '.join(map(_option, LIMITS))}")
        with recorded(settings, "team.limit", team.team_id) as change:
            change.team_id = team.team_id
            return await teams.limit(team, changes, bounds)
    return team


def _option(limit: str) -> str:
    return "--" + limit.replace("_", "-")


def _changes(args: argparse.Namespace) -> dict[str, object]:
    """The limits on the command line; None: the default is to hold again. Raises: InvalidRequestError."""
    given = {name: text for name in LIMITS if (text := getattr(args, name)) is not None}
    changes: dict[str, object] = {}
    for name, text in given.items():
        try:
            changes[name] = None if text == _DEFAULT else float(text)
        except ValueError as error:
            raise InvalidRequestError(f"{_option(name)} {text[:100]!r} is no number", hint=f"or `{_DEFAULT}`") from error
    return changes


async def _told(store: Store, team: Team, settings: Settings) -> dict[str, Any]:
    """A team as a script reads it."""
    use = TeamUse()
    for row in await store.list_sandboxes(ended_since=time.time()):
        use = use.plus(use_of(row)) if row.team_id == team.team_id else use
    held = sandbox_policy(settings).limits(team.limits)
    return {
        "id": team.team_id,
        "name": team.name,
        "createdAt": moment(team.created_at),
        "limits": {
            name: {"own": getattr(team.limits, name), "effective": getattr(held, name), "use": getattr(use, name, None)} for name in LIMITS
        },
        "has": dict(await Teams(store).goods(team)),
    }


async def _remove(args: argparse.Namespace, store: Store, settings: Settings) -> dict[str, Any]:
    teams = Teams(store)
    team = await teams.find(args.team)
    goods = dict(await teams.goods(team))
    with recorded(settings, "team.remove", team.team_id) as change:
        change.team_id = team.team_id
        await _remove_team(args, store, team, settings)
    return {"id": team.team_id, "name": team.name, "removed": goods}


async def _remove_team(args: argparse.Namespace, store: Store, team: Team, settings: Settings) -> None:
    """Have the running server remove the team, or do it here."""
    if is_served(settings.data_dir, settings.run_dir):
        url = f"{read_client_env(settings.data_dir).api_url}/admin/teams/{team.team_id}?kill={str(args.kill).lower()}"
        async with Keys(store).admin_key(_CALL_S) as secret:
            await asyncio.to_thread(_delete, url, secret)
    else:
        await Teams(store).remove(team, even_with_sandboxes=args.kill, ends_sandboxes=args.kill)


def _delete(url: str, key: str) -> None:
    """Raises: the server's error; UnavailableError: it does not answer."""
    request = urllib.request.Request(url, method="DELETE", headers={"X-Admin-Token": key})  # noqa: S310 - our own server's address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine itself, whatever proxy the shell has
    try:
        opener.open(request, timeout=_CALL_S).close()
    except urllib.error.HTTPError as error:
        code = "conflict" if error.code == 409 else "internal"
        raise from_code(code, json.loads(error.read())["message"]) from error
    except OSError as error:
        raise UnavailableError(f"the running server does not answer: {error}", hint="see `cloister status`") from error


def _table(teams: list[dict[str, Any]]) -> str:
    lines = [f"{'ID':21} {'NAME':20} {'SANDBOXES':>13} {'PAUSED':>13} {'KEYS':>5} {'CREATED':20}"]
    for team in teams:
        uses = " ".join(f"{_of(team['limits'][name]):>13}" for name in ("sandboxes", "paused"))
        lines.append(f"{team['id']:21} {team['name']:20} {uses} {team['has']['keys']:>5} {team['createdAt']:20}")
    return "\n".join(lines)


def _of(limit: Mapping[str, Any]) -> str:
    most = "no limit" if limit["effective"] is None else f"{limit['effective']:.15g}"
    return most if limit["use"] is None else f"{limit['use']:.15g} of {most}"


def _details(team: dict[str, Any]) -> str:
    lines = [f"{'team':16} {team['name']} ({team['id']}), created {team['createdAt']}"]
    for name, limit in team["limits"].items():
        lines.append(f"{name:16} {_of(limit)}{'' if limit['own'] is None else ', its own limit'}")
    return "\n".join([*lines, f"{'has':16} {_list(team['has'])}"])


def _removal(removed: dict[str, Any]) -> str:
    return f"removed team {removed['name']} ({removed['id']}) with {_list(removed['removed'])}"


def _list(goods: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in goods.items())
