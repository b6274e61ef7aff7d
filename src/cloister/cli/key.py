"""``cloister key create|list|revoke``: API keys of teams and of the operator. Works on the store, whether the server runs or not."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cloister.cli.moments import moment, parse_expiry
from cloister.cli.opened import open_store
from cloister.cli.recording import recorded
from cloister.config.client_env import NO_KEY, read_client_env, write_client_env
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.control.keys import Keys
from cloister.control.teams import DEFAULT_TEAM
from cloister.errors import AuthenticationError, NotFoundError
from cloister.model.team import ApiKey, KeyScope, Team

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="create a key and print it; it is never shown again")
    create.add_argument("name", nargs="?", default="unnamed", help="a name that says the purpose of the key")
    whose = create.add_mutually_exclusive_group()
    whose.add_argument("--team", default=DEFAULT_TEAM, help="the team of the key, which is created if it is new (default: %(default)s)")
    whose.add_argument("--metrics", action="store_true", help="a key without a team, for GET /metrics only")
    whose.add_argument("--admin", action="store_true", help="a key without a team, for the routes below /admin and GET /audit only")
    create.add_argument("--expires", metavar="WHEN", help="the end of the key: in 12h, 30d or 8w, or a date such as 2030-01-31")
    listing = actions.add_parser("list", help="list keys, without their secrets")
    listing.add_argument("--team", help="only the keys of this team")
    revoke = actions.add_parser("revoke", help="revoke a key permanently, from the next request on")
    revoke.add_argument("key_id", help="the key's id, from `cloister key list`")
    for action in (create, listing, revoke):
        action.add_argument("--json", action="store_true", help="print JSON")
        add_arguments(action, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    return asyncio.run(_run(args, settings))


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    expires_at = parse_expiry(args.expires) if args.action == "create" and args.expires else None
    async with open_store(settings) as store:
        keys = Keys(store)
        if args.action == "create":
            scope = KeyScope.ADMIN if args.admin else KeyScope.METRICS if args.metrics else None
            with recorded(settings, "key.create") as change:
                made = keys.create_for_operator(scope, args.name, expires_at) if scope else keys.create(args.team, args.name, expires_at)
                key, secret = await made
                change.object_id, change.team_id = key.key_id, key.team_id
            print(json.dumps({**_to_json(key, None), "key": secret}, indent=1) if args.json else secret)
        elif args.action == "revoke":
            with recorded(settings, "key.revoke", args.key_id) as change:
                change.team_id = next((key.team_id for key, _ in await keys.list() if key.key_id == args.key_id), None)
                await keys.revoke(args.key_id)
            await _forget_revoked_key(keys, settings.data_dir)
            if args.json:
                print(json.dumps({"id": args.key_id, "state": "revoked"}))
        else:
            rows = [row for row in await keys.list() if args.team is None or (row[1] and args.team in (row[1].name, row[1].team_id))]
            if args.json:
                print(json.dumps([_to_json(key, team) for key, team in rows], indent=1))
            else:
                _print(rows)
    return 0


async def _forget_revoked_key(keys: Keys, data_dir: Path) -> None:
    """Remove a revoked default key from ``client.env``, because a running server writes that file only at its start."""
    try:
        env = read_client_env(data_dir)
        if env.api_key:
            await keys.authenticate(env.api_key)
    except NotFoundError:
        pass
    except AuthenticationError:
        write_client_env(data_dir, dataclasses.replace(env, api_key=""))
        print(f"cloister: {NO_KEY}", file=sys.stderr)


def _to_json(key: ApiKey, team: Team | None) -> dict[str, str | None]:
    """A key as a script reads it, without its hash."""
    return {
        "id": key.key_id,
        "scope": key.scope.value,
        "team": None if team is None else team.name,
        "teamID": key.team_id,
        "name": key.name,
        "mask": key.hint,
        "state": _state(key),
        "createdAt": moment(key.created_at),
        "createdBy": key.created_by,
        "expiresAt": moment(key.expires_at),
        "lastUsed": moment(key.last_used_at),
        "revokedAt": moment(key.revoked_at),
    }


def _state(key: ApiKey) -> str:
    return "revoked" if key.revoked_at is not None else "expired" if key.is_expired(time.time()) else "valid"


def _print(rows: Sequence[tuple[ApiKey, Team | None]]) -> None:
    print(f"{'ID':36} {'SCOPE':8} {'TEAM':16} {'NAME':20} {'KEY':17} {'CREATED':20} {'LAST USED':20} {'EXPIRES':20} STATE")
    for key, team in rows:
        times = " ".join(f"{moment(at) or '-':20}" for at in (key.created_at, key.last_used_at, key.expires_at))
        print(f"{key.key_id:36} {key.scope:8} {team.name if team else '-':16} {key.name:20} {key.hint:17} {times} {_state(key)}")
