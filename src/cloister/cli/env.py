"""``cloister env``: prints the exports that point the official SDKs at this server, for ``eval "$(cloister env)"``.

With a public domain served by TLS they name the domain, else the listener in clear text; either can be asked for.
"""

from __future__ import annotations

import argparse
import os
import shlex

from cloister.cli.client_env import read_client_env
from cloister.config.load import add_arguments, load

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("env", help='print exports for the SDKs: eval "$(cloister env)"')
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--local", action="store_true", help="the listener in clear text, from this machine")
    which.add_argument("--public", action="store_true", help="the public domain, by TLS (of this server, or of a proxy before it)")
    add_arguments(parser, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Print the exports."""
    settings = load(args, os.environ)
    env = read_client_env(settings.data_dir)
    variables = env.local() if args.local else env.public() if args.public else env.variables()
    for name, value in variables.items():
        print(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    return 0
