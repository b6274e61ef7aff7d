"""``cloister env``: prints the exports that point the official SDKs at this server, for ``eval "$(cloister env)"``."""

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
    add_arguments(parser, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Print the exports."""
    settings = load(args, os.environ)
    for name, value in read_client_env(settings.data_dir).variables().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
