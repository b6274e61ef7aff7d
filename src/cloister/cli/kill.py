"""``cloister kill ID…`` and ``cloister kill --all``: ends sandboxes; as root on the server's host those of any team.

Exit codes: 0 all were ended; 1 one that was named does not exist, or one could not be ended. The others are ended all the same.
"""

from __future__ import annotations

import argparse
import json
import sys

from cloister.cli.endpoint import add_server_options, run_client
from cloister.cli.fleet import Fleet, add_filters, open_fleet, wanted
from cloister.errors import CloisterError, InvalidRequestError, NotFoundError

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.usage = "%(prog)s [OPTION]... (ID... | --all)"
    parser.add_argument("sandbox_ids", metavar="ID", nargs="*", help="the sandboxes, from `cloister ps`")
    parser.add_argument("-a", "--all", action="store_true", help="all that `cloister ps` lists with the same options, paused ones too")
    parser.add_argument("--json", action="store_true", help="print JSON: the ids that were ended")
    add_filters(parser)
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """End them."""
    if bool(args.sandbox_ids) == args.all:
        raise InvalidRequestError("name sandboxes, or give --all, and not both", hint="`cloister ps` lists them")
    if args.sandbox_ids and (args.metadata or args.state or args.template or args.team):
        raise InvalidRequestError("--metadata, --state, --template and --team choose among --all")
    return run_client(_run(args))


async def _run(args: argparse.Namespace) -> int:
    choose = wanted(args)
    async with open_fleet(args) as fleet:
        names = [one.sandbox_id for one in await fleet.listed() if choose(one)] if args.all else list(dict.fromkeys(args.sandbox_ids))
        outcomes = {name: await _kill(fleet, name, may_be_gone=args.all) for name in names}
    ended = [name for name, is_ended in outcomes.items() if is_ended]
    print(json.dumps(ended) if args.json else "".join(f"{name}\n" for name in ended), end="\n" if args.json else "")
    return int(False in outcomes.values())


async def _kill(fleet: Fleet, sandbox_id: str, *, may_be_gone: bool) -> bool | None:
    """Whether it was ended; None: it has ended meanwhile, and may have."""
    try:
        await fleet.kill(sandbox_id)
    except NotFoundError as error:
        if may_be_gone:
            return None
        print(f"cloister: {error}", file=sys.stderr)
        return False
    except CloisterError as error:
        print(f"cloister: {sandbox_id}: {error}", file=sys.stderr)
        return False
    return True
