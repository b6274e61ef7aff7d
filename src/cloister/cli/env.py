"""``cloister env``: prints the exports that direct the official SDKs to this server, for ``eval "$(cloister env)"``.

If the server serves a public domain with TLS, they name the domain, else the listener without TLS; an option chooses either. After the
default key was revoked, the exports have no key, and a line on standard error says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys

from cloister.config.client_env import NO_KEY, read_client_env
from cloister.config.load import add_arguments, load

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--local", action="store_true", help="the listener without TLS, for clients on this machine")
    which.add_argument("--public", action="store_true", help="the public domain with TLS, of this server or of a proxy in front of it")
    parser.add_argument("--json", action="store_true", help="print JSON; a variable to unset is null")
    add_arguments(parser, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Print the exports."""
    settings = load(args, os.environ)
    env = read_client_env(settings.data_dir)
    variables = env.local() if args.local else env.public() if args.public else env.variables()
    if args.json:
        print(json.dumps(dict(variables), indent=1))
    for name, value in () if args.json else variables.items():
        print(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    if not env.api_key:
        print(f"cloister: {NO_KEY}", file=sys.stderr)
    return 0
