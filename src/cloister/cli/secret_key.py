"""``cloister secret-key rotate``: encrypts the secrets of all teams with a new key. The server must be stopped."""

from __future__ import annotations

import argparse
import asyncio
import os

from cloister.cli.opened import open_store
from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.control.secrets import Secrets
from cloister.control.webhooks import Webhooks
from cloister.errors import ConflictError
from cloister.node.instance import is_served
from cloister.store.sealing import SealingKeys

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    rotate = actions.add_parser("rotate", help="encrypt all secrets with a new key, and forget the former one")
    add_arguments(rotate, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    if is_served(settings.data_dir, settings.run_dir):
        raise ConflictError("a server runs on this data directory", hint="stop it first: it keeps the former key in memory")
    with recorded(settings, "secret_key.rotate"):
        count = asyncio.run(_rotate(settings))
    print(f"{count} secrets are encrypted with a new key; back up {settings.data_dir / 'api' / 'secrets.key'}")
    return 0


async def _rotate(settings: Settings) -> int:
    async with open_store(settings) as store:
        keys = SealingKeys(settings.data_dir / "api" / "secrets.key")
        keys.open()
        keys.rotate()
        secrets, webhooks = Secrets(store.secrets, keys, most=0), Webhooks(store.events, keys, lambda _: None, most=0)
        count = await secrets.reseal() + await webhooks.reseal()
        sealed = (store.secrets.list_sealed_otherwise, store.events.list_sealed_otherwise)
        if not [row for rows in sealed for row in await rows(keys.current_id)]:
            keys.forget_former()
        return count
