"""The ``cloister`` command: finds the subcommand and runs it. Each subcommand is a module in the table below.

A subcommand's module has ``add_parser(subparsers)``, which registers its parser under its name, and ``run(args) -> int``, which does the
work and returns the exit code. Modules are imported only when they are asked for, or when help about all is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from cloister import __version__
from cloister.errors import CloisterError

__all__ = ["main"]

_COMMANDS = {
    "serve": "cloister.cli.serve",
    "node": "cloister.cli.node",
    "api": "cloister.cli.api_process",
    "env": "cloister.cli.env",
    "key": "cloister.cli.key",
    "run": "cloister.cli.run",
    "doctor": "cloister.cli.doctor",
    "census": "cloister.cli.census",
    "template": "cloister.cli.template",
    "ca": "cloister.cli.ca",
}


def _parser(names: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    parser = argparse.ArgumentParser(prog="cloister", description="A self-hosted sandbox server with the E2B API.")
    parser.add_argument("--version", action="version", version=f"cloister {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(_COMMANDS[name]) for name in names}
    for module in modules.values():
        module.add_parser(subparsers)
    return parser, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    parser, modules = _parser([asked] if asked in _COMMANDS else list(_COMMANDS))
    args = parser.parse_args(arguments)
    try:
        return int(modules[args.command].run(args))
    except CloisterError as error:
        print(f"cloister: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
