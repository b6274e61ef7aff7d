"""``cloister volume``: lists, makes, copies, removes, backs up and restores volumes of a team, by the API with its key."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from cloister.cli.endpoint import add_server_options, find_server, run_client
from cloister.cli.table import shown_size, table
from cloister.client.api import connect
from cloister.client.volumes import VolumeClient
from cloister.errors import CloisterError, InvalidRequestError

__all__ = ["add_options", "run"]

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="print the volumes, their size and use")
    show = actions.add_parser("show", help="print what is known of one volume")
    create = actions.add_parser("create", help="make an empty volume, and print its id")
    copy = actions.add_parser("copy", help="make a volume with the data that another one has now, and print its id")
    backup = actions.add_parser("backup", help="write the files that a volume has now to a tar archive")
    restore = actions.add_parser("restore", help="put the files of a tar archive into a volume, over those that are there")
    token = actions.add_parser("token", help="print a token for the volume's content, valid for a day")
    remove = actions.add_parser("rm", help="delete volumes with their data")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--size-mib", type=int, default=None, metavar="MIB", help="its size (default: setting default_volume_mib)")
    for one in (show, copy, backup, restore, token):
        one.add_argument("name", metavar="VOLUME", help="name or id")
    copy.add_argument("target", metavar="NAME", help="the name of the copy")
    backup.add_argument("file", metavar="FILE", type=Path, help="a new file")
    restore.add_argument("file", metavar="FILE", type=Path, help="it may be compressed")
    remove.add_argument("names", metavar="VOLUME", nargs="+", help="name or id")
    for one in (listing, show, create, copy):
        one.add_argument("--json", action="store_true", help="print JSON")
    for one in actions.choices.values():
        add_server_options(one)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return run_client(_run(args))


async def _run(args: argparse.Namespace) -> int:
    async with connect(find_server(args)) as api:
        return await _ACTIONS[args.action](VolumeClient(api), args) or 0


async def _list(volumes: VolumeClient, args: argparse.Namespace) -> None:
    found = await volumes.all()
    if args.json:
        print(json.dumps(found, indent=1))
        return
    rows = [
        (one["name"], one["volumeID"], shown_size(one["sizeMB"] << 20), _used(one), str(one.get("sandboxes", "-")), one["createdAt"])
        for one in found
    ]
    print("\n".join(table(("NAME", "VOLUME", ">SIZE", ">USED", ">SANDBOXES", "CREATED"), rows)))


async def _show(volumes: VolumeClient, args: argparse.Namespace) -> None:
    found = await volumes.find(args.name)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    files = found.get("files")
    rows = [
        ("name", found["name"]),
        ("id", found["volumeID"]),
        ("size", shown_size(found["sizeMB"] << 20)),
        ("used", _used(found)),
        ("files", "-" if files is None else str(files)),
        ("sandboxes", str(found.get("sandboxes", "-"))),
        ("created", found["createdAt"]),
    ]
    print("\n".join(table(rows[0], rows[1:])))


async def _create(volumes: VolumeClient, args: argparse.Namespace) -> None:
    _print_new(await volumes.create(args.name, args.size_mib), args)


async def _copy(volumes: VolumeClient, args: argparse.Namespace) -> None:
    _print_new(await volumes.copy(await volumes.find(args.name), args.target), args)


async def _backup(volumes: VolumeClient, args: argparse.Namespace) -> None:
    volume = await volumes.find(args.name)
    try:
        fd = os.open(args.file, _NEW_FILE, 0o600)
    except OSError as error:
        raise InvalidRequestError(f"{args.file}: {error.strerror}", hint="name a new file") from error
    try:
        with os.fdopen(fd, "wb") as file:
            size = await volumes.save(volume, file)
            os.fsync(fd)
    except BaseException:
        args.file.unlink(missing_ok=True)
        raise
    print(f"{args.name}: {shown_size(size)} in {args.file}", file=sys.stderr)


async def _restore(volumes: VolumeClient, args: argparse.Namespace) -> None:
    volume = await volumes.find(args.name)
    try:
        file = args.file.open("rb")
    except OSError as error:
        raise InvalidRequestError(f"{args.file}: {error.strerror}") from error
    with file:
        count = await volumes.load(volume, file)
    print(f"{args.name}: {count} entries of {args.file}", file=sys.stderr)


async def _token(volumes: VolumeClient, args: argparse.Namespace) -> None:
    print(await volumes.token(await volumes.find(args.name)))


async def _remove(volumes: VolumeClient, args: argparse.Namespace) -> int:
    code = 0
    for name in args.names:
        try:
            await volumes.delete(await volumes.find(name))
            print(name)
        except CloisterError as error:
            print(f"cloister: {name}: {error}", file=sys.stderr)
            code = 1
    return code


def _print_new(volume: Mapping[str, Any], args: argparse.Namespace) -> None:
    print(json.dumps(volume, indent=1) if args.json else volume["volumeID"])


def _used(volume: Mapping[str, Any]) -> str:
    return shown_size(volume["usedBytes"]) if "usedBytes" in volume else "-"


_ACTIONS: dict[str, Callable[[VolumeClient, argparse.Namespace], Awaitable[int | None]]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "copy": _copy,
    "backup": _backup,
    "restore": _restore,
    "token": _token,
    "rm": _remove,
}
