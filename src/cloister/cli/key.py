"""``cloister key create|list|revoke``: API keys, in the store of a data directory, whether or not its server runs."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.control.keys import DEFAULT_TEAM, Keys
from cloister.errors import NotFoundError, PermissionDeniedError
from cloister.store.base import ApiKey, Team
from cloister.store.sqlite import SqliteStore

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("key", help="create, list and revoke API keys")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and print it; it is shown this once")
    create.add_argument("name", nargs="?", default="unnamed", help="what the key is for")
    create.add_argument("--team", default=DEFAULT_TEAM, help="the team it belongs to, made if it is new (default: %(default)s)")
    listing = actions.add_parser("list", help="list keys, without their secrets")
    revoke = actions.add_parser("revoke", help="revoke a key for good, from the next request on")
    revoke.add_argument("key_id", help="the key's id, from `cloister key list`")
    for action in (create, listing, revoke):
        add_arguments(action, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    settings = load(args, os.environ)
    return asyncio.run(_run(args, settings.data_dir / "api" / "cloister.db"))


async def _run(args: argparse.Namespace, path: Path) -> int:
    store = await SqliteStore.open(_check(path))
    try:
        keys = Keys(store)
        if args.action == "create":
            _, secret = await keys.create(args.team, args.name)
            print(secret)
        elif args.action == "revoke":
            await keys.revoke(args.key_id)
        else:
            _print(await keys.list())
    finally:
        await store.close()
    return 0


def _check(path: Path) -> Path:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    return path


def _print(rows: Sequence[tuple[ApiKey, Team]]) -> None:
    print(f"{'ID':18} {'TEAM':16} {'NAME':20} {'KEY':14} {'CREATED':20} STATE")
    for key, team in rows:
        created = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = "valid" if key.revoked_at is None else "revoked"
        print(f"{key.key_id:18} {team.name:16} {key.name:20} {key.hint:14} {created:20} {state}")
